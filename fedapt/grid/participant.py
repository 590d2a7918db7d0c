"""A client as the server knows it: its device, budget, local settings and number of samples; and what its work costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from fedapt.admission import Admission
from fedapt.clients.adaptation import Adaptation
from fedapt.clients.instructions import Instructions, TrainReport
from fedapt.clients.precision.policy import Policy, Wish
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.model import Cost, CostModel
from fedapt.cost.planner import Demand, Plan, Refusal
from fedapt.grid.messages import Messages
from fedapt.grid.visit import Outcome, Task
from fedapt.quant import FLOAT_BITS, HIGHEST_BITS


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
    messages: Messages
    admission: Admission = field(default_factory=Admission)

    def cost_under(self, proximal_mu: float) -> CostModel:
        """Return what work costs with this pull of FedProx, which takes a float weight beside the gradient."""
        return self.cost.pulled if proximal_mu else self.cost

    def plan(self, wish: Wish, proximal_mu: float = 0.0, battery_j: float | None = None) -> Plan | Refusal:
        """Plan a round from a wish, within this client's own budget and what its battery may give.

        If the client adapts its own bits, the plan says how far all its layers could rise together.
        """
        limits = [limit for limit in (self.energy_budget_j, battery_j) if limit is not None]
        demand = Demand(
            wish=wish.bits,
            sensitivity=wish.sensitivity,
            samples=self.samples,
            epochs=self.epochs,
            batch=self.batch,
            memory_budget=self.memory_budget_bytes,
            energy_budget=min(limits, default=None),
            on_battery=battery_j is not None and battery_j == min(limits),
            lowest=self.policy.lowest,
            ladder=self.policy.ladder,
            buffers_bytes=self._start_bytes(proximal_mu),
            overhead_bytes=self._overhead_bytes(),
        )
        cost = self.cost_under(proximal_mu)
        plan = cost.plan(demand)
        if isinstance(plan, Refusal) or self._adaptation(plan) is None:
            return plan
        return replace(plan, highest=_highest(cost, demand, plan))

    def task(self, kind: str, plan: Plan, seed: int, round: int, proximal_mu: float) -> Task:
        """Return what the client is asked to do; in smaller batches, each takes its share of a whole batch's step."""
        told = Instructions(
            seed=seed,
            round=round,
            client=self.client,
            epochs=self.epochs,
            batch=plan.batch,
            lr=self.lr * min(plan.batch, self.samples) / min(self.batch, self.samples),
            rounding=self.policy.rounding,
            grid=self.policy.grid,
            proximal_mu=proximal_mu,
            copies=plan.bits if self.policy.master else {},
            frozen=list(plan.frozen),
            adaptation=self._adaptation(plan) if kind == "train" else None,
        )
        return Task("train" if kind == "train" else "evaluate", plan, told, self.samples, self.held_out, self.admission)

    def row(self, round: int, outcome: Outcome, task: Task, wish: Wish, battery_j: float | None = None) -> LedgerRow:
        """Write one attempt down: training is charged as reported, or as the transport says; a message if it was sent."""
        report = outcome.report if isinstance(outcome.report, TrainReport) else None
        plan, spent = task.plan, report.batches if report else outcome.spent
        bits = plan.bits | outcome.bits
        seen = [report.layers.get(layer) for layer in bits] if report else []
        return LedgerRow(
            round=round,
            client=self.client,
            attempt=outcome.attempt,
            group=self.group,
            profile=self.cost.profile.name,
            status=outcome.status,
            reason=outcome.reason,
            choice=self._choice(wish, plan, bits),
            samples=report.samples if report else 0,
            steps=sum(spent.values()),
            batch=plan.batch,
            frozen_layers=len(plan.frozen),
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
            battery_j=battery_j,
            **_columns(self._costs(outcome, task, spent)),
        )

    def refused(self, round: int, refusal: Refusal, battery_j: float | None = None) -> LedgerRow:
        """Write down that the client does not take part, which costs nothing."""
        return LedgerRow(
            round=round,
            client=self.client,
            attempt=0,
            group=self.group,
            profile=self.cost.profile.name,
            status="refused",
            reason=refusal.reason,
            memory_budget_bytes=self.memory_budget_bytes,
            energy_budget_j=self.energy_budget_j,
            battery_j=battery_j,
            bytes_source="constant",
        )

    def _adaptation(self, plan: Plan) -> Adaptation | None:
        """Return how the client adapts its own bits, None if the round ends before it would."""
        epoch = -(-self.samples // plan.batch)
        adaptation = self.policy.adaptation(epoch, plan.highest)
        return adaptation if adaptation and adaptation.every < self.epochs * epoch else None

    def _costs(self, outcome: Outcome, task: Task, spent: Mapping[int, int]) -> list[Cost]:
        """Return the cost of each part of the training that had widths of its own; the messages are in the first."""
        mu = task.instructions.proximal_mu
        plan, cost, buffers = task.plan, self.cost_under(mu), self._start_bytes(mu)
        parts: list[tuple[dict[str, int], Mapping[int, int]]] = [
            (dict(zip(sorted(plan.bits), part.bits, strict=True)), part.batches) for part in outcome.segments
        ]
        radio = [(outcome.downlink_bytes, outcome.uplink_bytes)] + [(0, 0)] * len(parts)
        return [
            cost.training_cost(bits, _one_by_one(batches), *bytes_, plan.frozen, buffers_bytes=buffers)
            for (bits, batches), bytes_ in zip(parts or [(plan.bits, spent)], radio, strict=False)
        ]

    def _choice(self, wish: Wish, plan: Plan, bits: Mapping[str, int]) -> str:
        """Say in words which bits were wished and what became of them."""
        asked = f"{self.policy.kind} asks for {self._mean_bits(wish.bits):.3g} bits"
        moved = "" if bits == plan.bits else f"{self._mean_bits(bits):.3g} at the end of the round"
        return "; ".join(part for part in (asked + (f" ({wish.why})" if wish.why else ""), plan.reason, moved) if part)

    def _overhead_bytes(self) -> int:
        """Return what a message has beyond the model, at most: at the widest codes, places take the most digits."""
        epoch = -(-self.samples // self.batch)
        adaptation = self.policy.adaptation(epoch, {})
        segments = -(-self.epochs * epoch // adaptation.every) if adaptation else 0
        wire = FLOAT_BITS if self.policy.master else HIGHEST_BITS
        lengths = self.messages.lengths(dict.fromkeys(self.messages.weights, wire), self.policy.grid, segments)
        return -(-sum(lengths) // 2) - self.cost.payload_bytes(dict.fromkeys(self.messages.weights, HIGHEST_BITS))

    def _start_bytes(self, proximal_mu: float) -> int:
        """Return what FedProx's pull to the start costs: a float copy of the model as it came."""
        return 4 * sum(shape.weights + shape.float_parameters for shape in self.cost.shapes) if proximal_mu else 0

    def _mean_bits(self, bits: Mapping[str, int]) -> float:
        weights = {shape.name: shape.weights for shape in self.cost.shapes if shape.name in bits}
        return sum(weights[layer] * width for layer, width in bits.items()) / max(sum(weights.values()), 1)


def _highest(cost: CostModel, demand: Demand, plan: Plan) -> dict[str, int]:
    """Return how wide all layers could be together, none below the plan; a round at these fits the same budgets."""
    widest = {layer: max(bits, HIGHEST_BITS) for layer, bits in plan.bits.items()}
    raised = cost.plan(replace(demand, wish=widest, at_least=plan.bits, batch=plan.batch, ladder=("bits",)))
    return raised.bits if isinstance(raised, Plan) else plan.bits


def _one_by_one(batches: Mapping[int, int]) -> list[int]:
    return [size for size, count in batches.items() for _ in range(count)]


def _columns(costs: Sequence[Cost]) -> dict[str, Any]:
    """Return what the parts of a round cost together, under the names of the ledger's columns: sums, and the highest memory."""
    parts = [_columns_of(cost) for cost in costs]
    return {name: (max if name.startswith("memory_") else sum)(part[name] for part in parts) for name in parts[0]}


def _columns_of(cost: Cost) -> dict[str, Any]:
    return {
        "macs": cost.macs,
        "energy_j": cost.energy.total_j,
        **{f"energy_{part}": value for part, value in asdict(cost.energy).items()},
        **{f"energy_{table}_j": energy.total_j for table, energy in cost.energies.items()},
        "energy_operands_j": cost.energy_operands.total_j,
        "time_s": cost.time.total_s,
        **{f"time_{part}": value for part, value in asdict(cost.time).items()},
        "memory_bytes": cost.memory.total_bytes,
        "memory_container_bytes": cost.memory_container.total_bytes,
    }
