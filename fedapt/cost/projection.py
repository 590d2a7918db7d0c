"""Bits from budgets: a wish for each layer's width, lowered until a round fits the memory and the energy of a device.

While the need exceeds a budget, one bit is taken from the layer whose bit saves most bytes, the later one of equals; a float
layer first drops to 16 bits. A bit saves an eighth of a byte a weight, so the layer with most weights gives all it has before
the next one is asked, and each layer's width is found at once in a table of what it costs at every width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedapt.cost.energy import TABLES, layer_energy
from fedapt.cost.memory import stored_bytes, transient_bytes
from fedapt.cost.profiles import Profile
from fedapt.cost.saved import SavedBytes
from fedapt.cost.trace import WIDTHS, LayerTrace
from fedapt.quant.grid import FLOAT_BITS

Array = NDArray[np.float64]
Chosen = NDArray[np.intp]


@dataclass(frozen=True)
class Refusal:
    """Why no widths fit: what a round needs at the lowest, and what there is; joules are None where there is no energy budget."""

    reason: str
    needed_bytes: int
    available_bytes: int
    needed_j: float | None
    available_j: float | None


@dataclass(frozen=True)
class Widths:
    """What each layer costs at each of `WIDTHS`; every array is (layers, widths).

    payload: bytes of codes, scales and float parameters; macs_sample, macs_step: fp32 MACs of the same energy, by energy table.
    """

    names: list[str]
    weights: list[int]
    payload: Array
    transient: Array
    moved_bytes: Array
    macs_sample: dict[str, Array]
    macs_step: dict[str, Array]
    saved: SavedBytes

    @staticmethod
    def of(layers: Sequence[Mapping[int, LayerTrace]], saved: SavedBytes) -> Widths:
        """Tabulate the traces of each layer at each width."""
        rows = [[at[bits] for bits in WIDTHS] for at in layers]
        prices = {
            name: np.array([[layer_energy(layer, table) for layer in row] for row in rows]) for name, table in TABLES.items()
        }
        return Widths(
            names=[row[0].shape.name for row in rows],
            weights=[row[0].shape.weights for row in rows],
            payload=np.array([[float(stored_bytes(at)) for at in row] for row in rows]),
            transient=np.array([[float(transient_bytes(at)) for at in row] for row in rows]),
            moved_bytes=np.array([[at.moved_bits / 8 for at in row] for row in rows]),
            macs_sample={name: price[:, :, 0] for name, price in prices.items()},
            macs_step={name: price[:, :, 1] for name, price in prices.items()},
            saved=saved,
        )


@dataclass(frozen=True)
class _Round:
    """One round at any widths. joules, moved_bytes: (layers, widths), of arithmetic and of parameters."""

    widths: Widths
    profile: Profile
    fixed_bytes: float
    activation_bytes: float
    joules: Array
    moved_bytes: Array

    def need(self, chosen: Chosen, layer: int = 0) -> tuple[Array, Array]:
        """Return resident bytes and joules, (widths,) each, with one layer at every width and the others as chosen."""
        rows = np.arange(len(chosen))
        others = rows != layer

        def total(table: Array) -> Array:
            return np.asarray(table[rows, chosen][others].sum() + table[layer])

        transient, payload = self.widths.transient, total(self.widths.payload)
        highest = np.maximum(transient[rows, chosen][others].max(initial=0.0), transient[layer])
        resident = self.fixed_bytes + payload + highest
        price = np.where(
            resident <= self.profile.on_chip_memory.value,
            self.profile.on_chip_energy_j_per_byte.value,
            self.profile.dram_energy_j_per_byte.value,
        )
        moved_j = (total(self.moved_bytes) + self.activation_bytes) * price
        return resident, total(self.joules) + moved_j + 2 * payload * self.profile.radio_j_per_byte.value

    def at(self, chosen: Chosen) -> tuple[float, float]:
        """Return resident bytes and joules at the chosen widths."""
        resident, joules = self.need(chosen)
        return float(resident[chosen[0]]), float(joules[chosen[0]])


def project(
    widths: Widths,
    wish: Mapping[str, int],
    batches: Sequence[int],
    profile: Profile,
    table: str,
    memory_budget: int,
    energy_budget: float | None,
    lowest: int,
    extra_bytes: int,
) -> dict[str, int] | Refusal:
    """Return widths that fit both budgets, by the rule of this module, or a refusal with the numbers.

    energy_budget: for training and for receiving and sending the model once; None is no limit.
    lowest:        the width below which no layer is pushed; a layer that is wished lower stays where it is.
    extra_bytes:   optimiser state and buffers.
    """
    planned = _round(widths, batches, profile, table, extra_bytes)
    limit_j = np.inf if energy_budget is None else energy_budget
    chosen = np.array([WIDTHS.index(wish.get(name, FLOAT_BITS)) for name in widths.names])
    floor = WIDTHS.index(lowest)
    resident, joules = planned.at(chosen)
    if resident <= memory_budget and joules <= limit_j:
        return dict(wish)
    order = [layer for layer, name in enumerate(widths.names) if name in wish]
    for layer in sorted(order, key=lambda layer: (-widths.weights[layer], -layer)):
        needs, costs = planned.need(chosen, layer)
        reachable = slice(min(floor, chosen[layer]), chosen[layer] + 1)
        fitting = np.flatnonzero((needs[reachable] <= memory_budget) & (costs[reachable] <= limit_j))
        chosen[layer] = reachable.start + (fitting[-1] if fitting.size else 0)
        if fitting.size:
            return {name: WIDTHS[chosen[layer]] for layer, name in enumerate(widths.names) if name in wish}
    return _refusal(*planned.at(chosen), lowest, memory_budget, energy_budget, max(batches, default=0))


def _round(widths: Widths, batches: Sequence[int], profile: Profile, table: str, extra_bytes: int) -> _Round:
    samples, steps, batch, saved = sum(batches), len(batches), max(batches, default=0), widths.saved
    macs = samples * widths.macs_sample[table] + steps * widths.macs_step[table]
    return _Round(
        widths=widths,
        profile=profile,
        fixed_bytes=batch * (saved.per_sample + saved.input_per_sample) + saved.fixed + extra_bytes,
        activation_bytes=2.0 * (samples * (saved.per_sample + saved.input_per_sample) + steps * saved.fixed),
        joules=macs * profile.fp32_mac_energy.value,
        moved_bytes=widths.moved_bytes * steps,
    )


def _refusal(resident: float, joules: float, lowest: int, memory_budget: int, energy_budget: float | None, batch: int) -> Refusal:
    problems = []
    if resident > memory_budget:
        has = readable_bytes(memory_budget)
        problems.append(f"needs {readable_bytes(resident)} of memory at {lowest} bits and a batch of {batch}, has {has}")
    if energy_budget is not None and joules > energy_budget:
        problems.append(f"needs {joules:.3g} J for a round at {lowest} bits, has {energy_budget:.3g} J")
    advice = "a smaller batch or model would fit" if resident > memory_budget else "fewer samples or epochs would fit"
    needed_j = None if energy_budget is None else joules
    return Refusal(f"{'; '.join(problems)}: {advice}", int(resident), memory_budget, needed_j, energy_budget)


def readable_bytes(count: float) -> str:
    """Write a number of bytes in the largest binary unit that it fills, with three digits."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"
