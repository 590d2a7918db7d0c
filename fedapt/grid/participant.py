"""A client as the server knows it: its device, budget, local settings and number of samples; and what its work costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedapt.admission import Admission
from fedapt.clients.instructions import Instructions, TrainReport
from fedapt.clients.precision.policy import Policy
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.model import Cost, CostModel
from fedapt.cost.projection import Refusal
from fedapt.grid.visit import Outcome


@dataclass(frozen=True)
class Participant:
    """One enrolled client."""

    client: int
    group: str
    cost: CostModel
    policy: Policy
    epochs: int
    batch: int
    lr: float
    samples: int
    held_out: int
    memory_budget_bytes: int
    energy_budget_j: float | None
    admission: Admission = field(default_factory=Admission)

    def bits(self, wish: Mapping[str, int], proximal_mu: float = 0.0) -> dict[str, int] | Refusal:
        """Project a wish onto this client's own budget."""
        batches = _one_by_one(self.instructions(0, 0, proximal_mu).batches(self.samples))
        buffers = self._start_bytes(proximal_mu)
        return self.cost.project(wish, batches, self.memory_budget_bytes, self.energy_budget_j, buffers_bytes=buffers)

    def instructions(self, seed: int, round: int, proximal_mu: float) -> Instructions:
        """Return what to tell the client in a round."""
        return Instructions(
            seed=seed,
            round=round,
            client=self.client,
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            rounding=self.policy.rounding,
            grid=self.policy.grid,
            proximal_mu=proximal_mu,
        )

    def row(self, round: int, outcome: Outcome, bits: Mapping[str, int], proximal_mu: float) -> LedgerRow:
        """Write one attempt down: training is charged as reported, or as the transport says; a message if it was sent."""
        report = outcome.report if isinstance(outcome.report, TrainReport) else None
        batches = _one_by_one(report.batches if report else outcome.spent)
        buffers = self._start_bytes(proximal_mu)
        cost = self.cost.training_cost(bits, batches, outcome.downlink_bytes, outcome.uplink_bytes, buffers_bytes=buffers)
        seen = [report.layers.get(layer) for layer in bits] if report else []
        return LedgerRow(
            round=round,
            client=self.client,
            attempt=outcome.attempt,
            group=self.group,
            profile=self.cost.profile.name,
            status=outcome.status,
            reason=outcome.reason,
            samples=report.samples if report else 0,
            steps=len(batches),
            train_loss=report.train_loss if report else None,
            layer_bits=list(bits.values()),
            mean_bits=self._mean_bits(bits),
            gavg=[layer.gavg if layer else 0.0 for layer in seen],
            underflow_share=[layer.underflow_share if layer else 0.0 for layer in seen],
            clip_share=[layer.clip_share if layer else 0.0 for layer in seen],
            zero_update=outcome.zero_update,
            downlink_bytes=outcome.downlink_bytes,
            uplink_bytes=outcome.uplink_bytes,
            memory_budget_bytes=self.memory_budget_bytes,
            energy_budget_j=self.energy_budget_j,
            **_columns(cost),
        )

    def _start_bytes(self, proximal_mu: float) -> int:
        """Return what FedProx's pull to the start costs: a float copy of the model as it came."""
        return 4 * sum(shape.weights + shape.float_parameters for shape in self.cost.shapes) if proximal_mu else 0

    def _mean_bits(self, bits: Mapping[str, int]) -> float:
        weights = {shape.name: shape.weights for shape in self.cost.shapes if shape.name in bits}
        return sum(weights[layer] * width for layer, width in bits.items()) / max(sum(weights.values()), 1)


def _one_by_one(batches: Mapping[int, int]) -> list[int]:
    return [size for size, count in batches.items() for _ in range(count)]


def _columns(cost: Cost) -> dict[str, Any]:
    """Return a cost under the names of the ledger's columns."""
    return {
        "macs": cost.macs,
        "energy_j": cost.energy.total_j,
        **{f"energy_{part}": value for part, value in asdict(cost.energy).items()},
        **{f"energy_{table}_j": energy.total_j for table, energy in cost.energies.items()},
        "time_s": cost.time.total_s,
        **{f"time_{part}": value for part, value in asdict(cost.time).items()},
        "memory_bytes": cost.memory.total_bytes,
        "memory_container_bytes": cost.memory_container.total_bytes,
    }
