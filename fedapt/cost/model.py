"""The cost of one client's round, from what its model does in a step and the device's profile: the one door to the cost model.

Everything is modelled; nothing here is measured on a device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fedapt.cost import planner
from fedapt.cost.energy import TABLES, Account, Energy, radio_energy, training_energy
from fedapt.cost.memory import Memory, payload_bytes, training_memory
from fedapt.cost.planner import Demand, Plan, Refusal
from fedapt.cost.profiles import Profile
from fedapt.cost.shapes import LayerShape
from fedapt.cost.time import Time, radio_time, training_time
from fedapt.cost.trace import NOTHING, Spared, Trace, check_bits
from fedapt.cost.workload import Workloads
from fedapt.quant.treatment import WHOLE, Scheme


@dataclass(frozen=True)
class Cost:
    """What one client spends in one round.

    energy:           under the model's own table by the width of the weights alone; `energies` has it under each of the tables.
    energy_operands:  the same by both operands, see `energy`; `energies_operands` has it under each of the tables.
    backward_samples: that went backward, each as often as it did; spared_samples: that a sample filter spared that.
    memory:           peak, with codes packed; `memory_container` with codes in containers of 8, 16 or 32 bits.
    """

    macs: int
    backward_samples: int
    spared_samples: int
    energy: Energy
    energies: dict[str, Energy]
    energy_operands: Energy
    energies_operands: dict[str, Energy]
    time: Time
    memory: Memory
    memory_container: Memory


@dataclass(frozen=True)
class CostModel:
    """A model under a method on a device. table: the energy table that budgets are held against, one of `TABLES`."""

    workloads: Workloads
    profile: Profile
    table: str = "horowitz"

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """The layers of the model, nothing frozen."""
        return self.workloads.at().shapes

    @cached_property
    def pulled(self) -> CostModel:
        """The same where clients compute FedProx's pull towards the start."""
        return replace(self, workloads=self.workloads.pulled)

    @cached_property
    def weights(self) -> dict[str, int]:
        """How many weights each layer has; float parameters are not among them."""
        return {shape.name: shape.weights for shape in self.shapes}

    def trace(self, bits: Mapping[str, int], scheme: Scheme = WHOLE) -> Trace:
        """Return the trace of a step; layers that are not named are float. Raises as `check_bits` does."""
        return self.workloads.at(scheme).trace(bits)

    def training_cost(
        self,
        bits: Mapping[str, int],
        batches: Sequence[int],
        downlink_bytes: int,
        uplink_bytes: int,
        scheme: Scheme = WHOLE,
        buffers_bytes: int = 0,
        optimiser_bytes: int = 0,
        spared: Spared = NOTHING,
    ) -> Cost:
        """Return the cost of a round.

        bits: width of the weights by layer; batches: sizes of the batches that went forward, none if the client only listened;
        spared: what of them a sample filter did not let go on.
        """
        trace = self.trace(bits, scheme)
        memory, container = (
            training_memory(trace, max(batches, default=0), packed, optimiser_bytes, buffers_bytes) for packed in (True, False)
        )
        radio_j = radio_energy(self.profile, downlink_bytes, uplink_bytes)

        def energies(account: Account) -> dict[str, Energy]:
            spent = {
                name: training_energy(trace, batches, self.profile, name, memory.total_bytes, account, spared) for name in TABLES
            }
            return {name: Energy(energy.compute_j, energy.movement_j, radio_j) for name, energy in spent.items()}

        by_weights, by_operands = energies("weights"), energies("operands")
        return Cost(
            macs=trace.macs(sum(batches), len(batches), spared),
            backward_samples=sum(batches) - trace.not_backward(spared),
            spared_samples=spared.unseen + trace.not_backward(spared),
            energy=by_weights[self.table],
            energies=by_weights,
            energy_operands=by_operands[self.table],
            energies_operands=by_operands,
            time=self.round_time(bits, batches, downlink_bytes, uplink_bytes, scheme, spared),
            memory=memory,
            memory_container=container,
        )

    def round_time(
        self,
        bits: Mapping[str, int],
        batches: Sequence[int],
        downlink_bytes: int,
        uplink_bytes: int,
        scheme: Scheme = WHOLE,
        spared: Spared = NOTHING,
    ) -> Time:
        """Return the time of a round; arguments as in `training_cost`."""
        training_s = training_time(self.trace(bits, scheme), batches, self.profile, spared)
        return Time(training_s.compute_s, training_s.movement_s, radio_time(self.profile, downlink_bytes, uplink_bytes))

    def payload_bytes(self, bits: Mapping[str, int]) -> int:
        """Return the bytes of a message that carries the model: codes, scales and zeros, and floats, without framing."""
        return sum(payload_bytes(layer) for layer in self.trace(bits).layers)

    def plan(self, demand: Demand) -> Plan | Refusal:
        """Return what a client does in a round: its wish, lowered until the round fits its budgets; see `ladder`."""
        check_bits(self.shapes, demand.wish)
        return planner.plan(self.workloads, self.profile, self.table, demand)

    def wished_j(self, demand: Demand) -> float:
        """Return the joules of a round at the wish itself, inf if it does not fit the memory; raises as `plan` does."""
        check_bits(self.shapes, demand.wish)
        return planner.wished_j(self.workloads, self.profile, self.table, demand)
