"""The cost of one client's round, from the model's shapes and the device's profile: the one door to the cost model.

Everything is modelled; nothing here is measured on a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fedapt.cost.energy import TABLES, Energy, radio_energy, training_energy
from fedapt.cost.memory import Memory, stored_bytes, training_memory
from fedapt.cost.profiles import Profile
from fedapt.cost.projection import Refusal, Widths, project
from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape
from fedapt.cost.time import Time, radio_time, training_time
from fedapt.cost.trace import WIDTHS, LayerTrace, OpsOf, Trace, check_bits, exact_ops, trace_layer
from fedapt.quant.grid import FLOAT_BITS, LOWEST_BITS


@dataclass(frozen=True)
class Cost:
    """What one client spends in one round.

    energy:           under the model's own table; `energies` has it under each of the three.
    memory:           peak, with codes packed; `memory_container` with codes in containers of 4, 8, 16 or 32 bits.
    """

    macs: int
    energy: Energy
    energies: dict[str, Energy]
    time: Time
    memory: Memory
    memory_container: Memory


@dataclass(frozen=True)
class CostModel:
    """A model on a device.

    table:  the energy table that budgets are held against, one of `TABLES`.
    ops_of: what the training method does with each layer.
    """

    shapes: tuple[LayerShape, ...]
    saved: SavedBytes
    profile: Profile
    table: str = "horowitz"
    ops_of: OpsOf = exact_ops

    def trace(self, bits: Mapping[str, int]) -> Trace:
        """Return the trace of a step; layers that are not named are float. Raises as `trace_step` does."""
        check_bits(self.shapes, bits)
        layers = tuple(at[bits.get(shape.name, FLOAT_BITS)] for shape, at in zip(self.shapes, self._layers, strict=True))
        return Trace(layers, self.saved.per_sample, self.saved.fixed, self.saved.input_per_sample)

    def training_cost(
        self,
        bits: Mapping[str, int],
        batches: Sequence[int],
        downlink_bytes: int,
        uplink_bytes: int,
        optimiser_bytes: int = 0,
        buffers_bytes: int = 0,
    ) -> Cost:
        """Return the cost of a round.

        bits: width of the weights by layer; batches: sizes of the batches that were trained, none if the client only listened.
        """
        trace = self.trace(bits)
        memory, container = (
            training_memory(trace, max(batches, default=0), packed, optimiser_bytes, buffers_bytes) for packed in (True, False)
        )
        radio_j = radio_energy(self.profile, downlink_bytes, uplink_bytes)
        energies = {}
        for name in TABLES:
            training = training_energy(trace, batches, self.profile, name, memory.total_bytes)
            energies[name] = Energy(training.compute_j, training.movement_j, radio_j)
        training_s = training_time(trace, batches, self.profile)
        return Cost(
            macs=trace.macs(sum(batches), len(batches)),
            energy=energies[self.table],
            energies=energies,
            time=Time(training_s.compute_s, training_s.movement_s, radio_time(self.profile, downlink_bytes, uplink_bytes)),
            memory=memory,
            memory_container=container,
        )

    def fits(
        self, bits: Mapping[str, int], batch: int, memory_budget: int, optimiser_bytes: int = 0, buffers_bytes: int = 0
    ) -> bool:
        """Return whether a step on a batch stays within a budget in bytes, with codes packed."""
        return training_memory(self.trace(bits), batch, True, optimiser_bytes, buffers_bytes).total_bytes <= memory_budget

    def payload_bytes(self, bits: Mapping[str, int]) -> int:
        """Return the bytes of a message that carries the model: codes, scales and float parameters, without framing."""
        return sum(stored_bytes(layer) for layer in self.trace(bits).layers)

    def project(
        self,
        wish: Mapping[str, int],
        batches: Sequence[int],
        memory_budget: int,
        energy_budget: float | None = None,
        *,
        lowest: int = LOWEST_BITS,
        optimiser_bytes: int = 0,
        buffers_bytes: int = 0,
    ) -> dict[str, int] | Refusal:
        """Return the wished widths, lowered until a round fits budgets in bytes and joules; see `projection`.

        energy_budget: for the round, with the model received and sent once at the resulting widths.
        """
        check_bits(self.shapes, wish)
        return project(
            self._widths,
            wish,
            batches,
            self.profile,
            self.table,
            memory_budget,
            energy_budget,
            lowest,
            optimiser_bytes + buffers_bytes,
        )

    @cached_property
    def _layers(self) -> list[dict[int, LayerTrace]]:
        return [{bits: trace_layer(shape, bits, self.ops_of) for bits in WIDTHS} for shape in self.shapes]

    @cached_property
    def _widths(self) -> Widths:
        return Widths.of(self._layers, self.saved)
