"""Taking bits away where the least is lost: the ways down from wished widths, and what each point on them costs.

The harm of layer l at b bits is `sensitivity_l * 4**-b`, the energy of its quantisation noise times how much the loss minds it;
a float weight does no harm. Of all layers' next bits the one with the least harm for each byte, or joule, that it saves is taken;
of equals the one of the layer with most weights, then the later one. Steps that save a layer less for more harm come later, so
one sort gives the whole way, and every point on it is evaluated: a float layer that drops to 16 bits needs room to be dequantised
in, so the way down may first lead up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedapt.cost.energy import TABLES, backward_energy, layer_energy
from fedapt.cost.memory import payload_bytes, sent_bytes, stored_bytes
from fedapt.cost.peaks import Array, Peaks
from fedapt.cost.saved import SavedBytes
from fedapt.cost.trace import WIDTHS, LayerTrace
from fedapt.quant.grid import FLOAT_BITS

Chosen = NDArray[np.intp]
# Wide enough to see through the rounding of equal ratios, narrow enough to tell any two layers of a model apart.
RATIO_DECIMALS = 9
NOISE = np.array([0.0 if bits == FLOAT_BITS else 4.0**-bits for bits in WIDTHS])
FLOAT = WIDTHS.index(FLOAT_BITS)
MOST_WAYS = 256


@dataclass(frozen=True, eq=False)
class Widths:
    """What each layer costs at each of `WIDTHS`; every array is (layers, widths).

    stored: bytes between two steps; payload, sent: bytes in a message down and up; moved_bytes: of parameters, in a step.
    macs_sample, macs_step: fp32 MACs of the same energy, by energy table; macs_backward: the part of a sample's backward pass.
    """

    names: list[str]
    weights: Array
    stored: Array
    payload: Array
    sent: Array
    moved_bytes: Array
    macs_sample: dict[str, Array]
    macs_step: dict[str, Array]
    macs_backward: dict[str, Array]
    saved: SavedBytes
    peaks: Peaks
    _ways: dict[bytes, Way] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def of(layers: Sequence[Mapping[int, LayerTrace]], saved: SavedBytes, peaks: Peaks) -> Widths:
        """Tabulate the traces of each layer at each width."""
        rows = [[at[bits] for bits in WIDTHS] for at in layers]
        prices = {
            name: np.array([[layer_energy(layer, table) for layer in row] for row in rows]) for name, table in TABLES.items()
        }
        return Widths(
            names=[row[0].shape.name for row in rows],
            weights=np.array([float(row[0].shape.weights) for row in rows]),
            stored=np.array([[float(stored_bytes(at)) for at in row] for row in rows]),
            payload=np.array([[float(payload_bytes(at)) for at in row] for row in rows]),
            sent=np.array([[float(sent_bytes(at)) for at in row] for row in rows]),
            moved_bytes=np.array([[at.moved_bits / 8 for at in row] for row in rows]),
            macs_sample={name: price[:, :, 0] for name, price in prices.items()},
            macs_step={name: price[:, :, 1] for name, price in prices.items()},
            macs_backward={
                name: np.array([[backward_energy(at, table) for at in row] for row in rows]) for name, table in TABLES.items()
            },
            saved=saved,
            peaks=peaks,
        )

    def chosen(self, bits: Mapping[str, int]) -> Chosen:
        """Return the place in `WIDTHS` of each layer's width; a layer that is not named is float."""
        return np.array([WIDTHS.index(bits.get(name, FLOAT_BITS)) for name in self.names], np.intp)

    def way_by_bytes(self, start: Chosen, floor: Chosen, sensitivity: Array) -> Way:
        """Return the way from `start` down to `floor`, by the bytes that a bit saves; many clients wish the same."""
        key = b"".join(part.tobytes() for part in (start, floor, sensitivity))
        if key not in self._ways:
            if len(self._ways) >= MOST_WAYS:
                self._ways.clear()
            self._ways[key] = self.way(start, floor, sensitivity, self.weights[:, None] * np.array(WIDTHS))
        return self._ways[key]

    def way(self, start: Chosen, floor: Chosen, sensitivity: Array, value: Array) -> Way:
        """Return the way from `start` down to `floor`, by what a bit saves of `value` (layers, widths)."""
        places = np.arange(len(WIDTHS) - 1)
        # The step from width `place + 1` to `place`, for the layers and places that lie between floor and start.
        taken = (places >= floor[:, None]) & (places < start[:, None])
        harm = sensitivity[:, None] * -np.diff(NOISE)
        saved = np.diff(value)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(saved > 0, np.log(np.maximum(harm, 1e-300) / np.where(saved > 0, saved, 1.0)), np.inf)
        # A layer's steps come one after the other, so a step is no cheaper than the ones above it that open the way to it.
        ratio = np.maximum.accumulate(np.where(taken, ratio, -np.inf)[:, ::-1], axis=1)[:, ::-1]
        layers, steps = np.nonzero(taken)
        order = np.lexsort((-steps, -layers, -self.weights[layers], ratio[layers, steps].round(RATIO_DECIMALS)))
        return Way(self, start, layers[order], steps[order])


@dataclass(frozen=True, eq=False)
class Way:
    """Points from `start` downwards; at point p the first p steps are taken.

    layers, places: (steps,), which layer a step lowers, and to which place in `WIDTHS`.
    """

    widths: Widths
    start: Chosen
    layers: Chosen
    places: Chosen
    _resident: dict[int, Array] = field(default_factory=dict, init=False, repr=False)

    def at(self, point: int) -> Chosen:
        """Return the place in `WIDTHS` of each layer at a point."""
        return self.start - np.bincount(self.layers[:point], minlength=len(self.start))

    def along(self, table: Array) -> Array:
        """Return the sum of a (layers, widths) table over the layers, at every point."""
        saved = table[self.layers, self.places] - table[self.layers, self.places + 1]
        return np.concatenate([[0.0], np.cumsum(saved)]) + float(table[np.arange(len(self.start)), self.start].sum())

    def resident(self, batch: int) -> Array:
        """Return the peak memory of a step on a batch, in bytes, at every point."""
        if batch not in self._resident:
            saved, (coded, dropped) = self.widths.saved, self._coded
            kept = batch * saved.per_sample + saved.fixed if batch else 0.0
            working = np.maximum(self.widths.peaks.working_bytes(batch, coded), kept)
            self._resident[batch] = self._stored + working[dropped] + batch * saved.input_per_sample
        return self._resident[batch]

    @cached_property
    def payload(self) -> Array:
        """Bytes of a message with the model at every point."""
        return self.along(self.widths.payload)

    @cached_property
    def sent(self) -> Array:
        """Bytes of an update at every point."""
        return self.along(self.widths.sent)

    @cached_property
    def moved_bytes(self) -> Array:
        """Bytes of parameters that a step moves, at every point."""
        return self.along(self.widths.moved_bytes)

    @cached_property
    def macs(self) -> dict[str, tuple[Array, Array]]:
        """By energy table, the fp32 MACs of the same energy of a sample and of a step, at every point."""
        return {table: (self.along(self.widths.macs_sample[table]), self.along(self.widths.macs_step[table])) for table in TABLES}

    def backward_macs(self, table: str) -> Array:
        """Return the part of a sample's MACs there that is of the backward pass, at every point."""
        return self.along(self.widths.macs_backward[table])

    @cached_property
    def _stored(self) -> Array:
        return self.along(self.widths.stored)

    @cached_property
    def _coded(self) -> tuple[NDArray[np.bool_], Chosen]:
        """Return which layers hold codes before and after each float layer drops, and how many have dropped at every point."""
        places = [self.widths.names.index(name) for name in self.widths.peaks.layers]
        drops = self.places == FLOAT - 1
        coded = np.repeat((self.start != FLOAT)[None], 1 + int(drops.sum()), axis=0)
        for number, layer in enumerate(self.layers[drops]):
            coded[number + 1 :, layer] = True
        return coded[:, places], np.concatenate([[0], np.cumsum(drops)]).astype(np.intp)


def readable_bytes(count: float) -> str:
    """Write a number of bytes in the largest binary unit that it fills, with three digits."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def readable_joules(energy: float) -> str:
    """Write an energy in the largest of J, mJ and uJ that it fills, with three digits."""
    if energy == 0:
        return "0 J"
    unit, factor = next(((unit, factor) for unit, factor in (("J", 1.0), ("mJ", 1e-3)) if energy >= factor), ("uJ", 1e-6))
    return f"{energy / factor:.3g} {unit}"
