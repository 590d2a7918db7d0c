"""A client as the server knows it: its device, budget, local settings and number of samples; and what its work costs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from fedapt.admission import Admission
from fedapt.clients.adaptation import Adaptation
from fedapt.clients.backward.rule import Backward
from fedapt.clients.instructions import Instructions, TrainReport
from fedapt.clients.link import Link
from fedapt.clients.precision.policy import Policy, Wish
from fedapt.clients.samples.filter import Filter, Filtered
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.model import Cost, CostModel
from fedapt.cost.planner import Demand, Plan, Refusal
from fedapt.cost.trace import Spared
from fedapt.grid.known import Known
from fedapt.grid.messages import Messages
from fedapt.grid.visit import ALL, Arrays, Outcome, Task
from fedapt.quant import FLOAT_BITS, HIGHEST_BITS

FLOAT_BYTES = 4


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
    link: Link = field(default_factory=Link)
    filter: Filter = ALL
    _known: Known = field(default_factory=Known, init=False, repr=False, compare=False)

    def peer(self, client: int, samples: int, held_out: int) -> Participant:
        """Return another client of the same terms: what is worked out for one of them holds for the other."""
        peer = replace(self, client=client, samples=samples, held_out=held_out)
        object.__setattr__(peer, "_known", self._known)
        return peer

    def cost_under(self, proximal_mu: float) -> CostModel:
        """Return what work costs with this pull of FedProx, which takes a float weight beside the gradient."""
        return self.cost.pulled if proximal_mu else self.cost

    def plan(
        self, wish: Wish, proximal_mu: float = 0.0, battery_j: float | None = None, *, corrected: bool = False
    ) -> Plan | Refusal:
        """Plan a round from a wish, within this client's own budget and what its battery may give.

        corrected: whether the strategy corrects the client's gradients, which takes a float beside each weight and parameter.

        If the client adapts its own bits, the plan says how far all its layers could rise together.
        """
        limit_j, on_battery = self.energy_budget_j, False
        if battery_j is not None and (limit_j is None or battery_j <= limit_j):
            limit_j, on_battery = battery_j, True
        work = (self.samples, bool(proximal_mu), corrected, tuple(wish.bits.items()), tuple(wish.sensitivity.items()))
        if on_battery and limit_j is not None and self._wished_j(work, wish, proximal_mu, corrected) <= limit_j:
            limit_j, on_battery = None, False
        known = self._known.plans
        found = known.get((work, limit_j, on_battery))
        if found is None:
            demand = self._demand(wish, proximal_mu, corrected, limit_j, on_battery)
            found = known.keep((work, limit_j, on_battery), self._plan(demand, self.cost_under(proximal_mu)))
        return found

    def task(
        self,
        kind: str,
        plan: Plan,
        seed: int,
        round: int,
        proximal_mu: float,
        *,
        correction: Arrays | None = None,
        most_steps: int | None = None,
        kept: Arrays | None = None,
    ) -> Task:
        """Return what the client is asked to do; in smaller batches, each takes its share of a whole batch's step.

        correction, kept: as in `Task`; most_steps: after how many steps it stops, None if it does them all.
        """
        work = (kind == "train", plan.key, self.samples, proximal_mu, most_steps)
        told = self._known.told.get(work) or self._known.told.keep(work, self._told(work[0], plan, proximal_mu, most_steps))
        return Task(
            "train" if kind == "train" else "evaluate",
            plan,
            # Every field was checked when they were told for the first time, and these three are the server's own.
            told.model_copy(update={"seed": seed, "round": round, "client": self.client}),
            self.samples,
            self.held_out,
            self.admission,
            correction=correction,
            kept=kept or {},
            filter=self.filter,
            part=self.cost_under(proximal_mu).workloads.at(plan.scheme).part if kind == "train" else None,
        )

    def message_lengths(self, task: Task, *, corrected: bool) -> tuple[int, int]:
        """Return the bytes down and up of a task, for a client that keeps the widths in which the model is sent."""
        return self.messages.of_task(task, corrected=corrected)

    def predicted_time_s(self, plan: Plan, *, corrected: bool = False, most_steps: int | None = None) -> float:
        """Return the time of a round as the ledger will have it, of a client that does what it is told at the bits it is sent."""
        task = self.task("train", plan, 0, 0, 0.0, most_steps=most_steps)
        radio = self.message_lengths(task, corrected=corrected)
        batches, spared = self._screen(task.asked)
        return self.cost.round_time(plan.bits, _one_by_one(batches), *radio, plan.scheme, spared).total_s

    def steps_within(self, plan: Plan, seconds: float, *, corrected: bool = False) -> int:
        """Return how many steps of the plan's round the client can do, and send, in so many seconds; 0 if none."""
        least, most = 0, sum(self.task("train", plan, 0, 0, 0.0).asked.values())
        while least < most:
            middle = (least + most + 1) // 2
            if self.predicted_time_s(plan, corrected=corrected, most_steps=middle) <= seconds:
                least = middle
            else:
                most = middle - 1
        return least

    def metrics(self, outcome: Outcome, task: Task) -> dict[str, float]:
        """Return what a strategy is told about an admitted update."""
        assert isinstance(outcome.report, TrainReport)
        return {
            "num-examples": outcome.report.samples,
            "train_loss": outcome.report.train_loss or 0.0,
            "steps": outcome.report.steps,
            "lr": task.instructions.lr,
            "mean_bits": self._mean_bits(task.plan.bits | outcome.bits),
            "update_variance": outcome.update_variance,
            "relative_error": outcome.relative_error,
            "staleness": 0,
        }

    def row(self, round: int, outcome: Outcome, task: Task, wish: Wish, battery_j: float | None = None) -> LedgerRow:
        """Write one attempt down: training is charged as reported, or as the transport says; a message if it was sent."""
        report = outcome.report if isinstance(outcome.report, TrainReport) else None
        plan, spent = task.plan, report.batches if report else outcome.spent
        bits = plan.bits | outcome.bits
        seen = [report.layers.get(layer) for layer in bits] if report else []
        return self._row_of(outcome, task, wish, spent, bits).but(
            round=round,
            client=self.client,
            attempt=outcome.attempt,
            status=outcome.status,
            reason=outcome.reason,
            samples=report.samples if report else 0,
            batched_clients=outcome.batched_clients,
            train_loss=report.train_loss if report else None,
            gavg=[layer.gavg if layer else 0.0 for layer in seen],
            underflow_share=[layer.underflow_share if layer else 0.0 for layer in seen],
            clip_share=[layer.clip_share if layer else 0.0 for layer in seen],
            zero_update=outcome.zero_update,
            battery_j=battery_j,
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

    def _row_of(self, outcome: Outcome, task: Task, wish: Wish, spent: Mapping[int, int], bits: Mapping[str, int]) -> LedgerRow:
        """Return the row of any client that did the same work: what it cost, and the words of the choice."""
        plan, filtered = task.plan, self._filtered(outcome, task, spent)
        work = (
            plan.key,
            tuple(wish.bits.items()),
            wish.why,
            tuple(outcome.bits.items()),
            tuple((tuple(part.bits), tuple(part.batches.items()), *_counts(part.filtered)) for part in outcome.segments),
            tuple(spent.items()),
            _counts(filtered),
            outcome.downlink_bytes,
            outcome.uplink_bytes,
            bool(task.instructions.proximal_mu),
            task.correction is not None,
        )
        return self._known.rows.get(work) or self._known.rows.keep(
            work,
            LedgerRow(
                round=0,
                client=self.client,
                attempt=0,
                group=self.group,
                profile=self.cost.profile.name,
                status="ok",
                choice=self._choice(wish, plan, bits),
                steps=filtered.steps if filtered else sum(spent.values()),
                batch=plan.batch,
                frozen_layers=len(plan.scheme.frozen),
                trained_weights=sum(shape.backward.sent_weights for shape in self.cost.workloads.at(plan.scheme).shapes),
                layer_bits=list(bits.values()),
                mean_bits=self._mean_bits(bits),
                downlink_bytes=outcome.downlink_bytes,
                uplink_bytes=outcome.uplink_bytes,
                memory_budget_bytes=self.memory_budget_bytes,
                energy_budget_j=self.energy_budget_j,
                **_columns(self._costs(outcome, task, spent, filtered)),
            ),
        )

    def _wished_j(self, work: Hashable, wish: Wish, proximal_mu: float, corrected: bool) -> float:
        """Return the joules of a round at the wish, inf if it does not fit the memory or the plan depends on what is left."""
        known = self._known.wished_j
        if work in known:
            return known[work]
        if self.policy.adaptation(-(-self.samples // self.batch), {}) is not None:
            return known.keep(work, math.inf)
        return known.keep(work, self.cost_under(proximal_mu).wished_j(self._demand(wish, proximal_mu, corrected, None, False)))

    def _demand(self, wish: Wish, proximal_mu: float, corrected: bool, limit_j: float | None, on_battery: bool) -> Demand:
        return Demand(
            wish=wish.bits,
            sensitivity=wish.sensitivity,
            samples=self.samples,
            epochs=self.epochs,
            batch=self.batch,
            memory_budget=self.memory_budget_bytes,
            energy_budget=limit_j,
            on_battery=on_battery,
            lowest=self.policy.lowest,
            ladder=self.policy.ladder,
            buffers_bytes=self._kept_bytes(proximal_mu, corrected),
            overhead_bytes=self._overhead_bytes(corrected),
            carriers=1 if self.link.bits else 2,
            screen=None if self.filter.takes_all else self._screen,
        )

    def _screen(self, batches: Mapping[int, int]) -> tuple[Mapping[int, int], Spared]:
        """Return which of these batches go forward where the sample filter takes the most, and what it spares them."""
        forward, filtered = self.filter.planned(batches)
        return forward, self._spared(forward, filtered)

    def _spared(self, forward: Mapping[int, int], filtered: Filtered | None) -> Spared:
        return self.filter.spared(forward, filtered, self.cost.workloads.input_shape)

    def _filtered(self, outcome: Outcome, task: Task, spent: Mapping[int, int]) -> Filtered | None:
        """Return what became of the batches that are charged: as reported, or at most."""
        if self.filter.takes_all or outcome.filtered is not None:
            return outcome.filtered
        return self.filter.planned(task.asked if spent else {})[1]

    def _plan(self, demand: Demand, cost: CostModel) -> Plan | Refusal:
        plan = cost.plan(demand)
        if isinstance(plan, Refusal) or self._adaptation(plan) is None:
            return plan
        return replace(plan, highest=_highest(cost, demand, plan))

    def _told(self, training: bool, plan: Plan, proximal_mu: float, most_steps: int | None) -> Instructions:
        """Return the instructions of a client with so many samples, of no round yet."""
        return Instructions(
            seed=0,
            round=0,
            client=self.client,
            epochs=self.epochs,
            batch=plan.batch,
            lr=self.lr * min(plan.batch, self.samples) / min(self.batch, self.samples),
            rounding=self.policy.rounding,
            grid=self.policy.grid,
            proximal_mu=proximal_mu,
            copies=plan.bits if self.policy.master else {},
            frozen=list(plan.scheme.frozen),
            backward=cast(Backward | None, plan.scheme.backward),
            adaptation=self._adaptation(plan, most_steps) if training else None,
            link=self.link,
            most_steps=most_steps,
        )

    def _adaptation(self, plan: Plan, most_steps: int | None = None) -> Adaptation | None:
        """Return how the client adapts its own bits, None if the round ends before it would."""
        epoch = -(-self.samples // plan.batch)
        adaptation = self.policy.adaptation(epoch, plan.highest)
        steps = self.epochs * epoch if most_steps is None else min(self.epochs * epoch, most_steps)
        return adaptation if adaptation and adaptation.every < steps else None

    def _costs(self, outcome: Outcome, task: Task, spent: Mapping[int, int], filtered: Filtered | None) -> list[Cost]:
        """Return the cost of each part of the training that had widths of its own; the messages are in the first."""
        mu = task.instructions.proximal_mu
        plan, cost, buffers = task.plan, self.cost_under(mu), self._kept_bytes(mu, task.correction is not None)
        parts: list[tuple[dict[str, int], Mapping[int, int], Filtered | None]] = [
            (dict(zip(sorted(plan.bits), part.bits, strict=True)), part.batches, part.filtered) for part in outcome.segments
        ]
        radio = [(outcome.downlink_bytes, outcome.uplink_bytes)] + [(0, 0)] * len(parts)
        return [
            cost.training_cost(
                bits, _one_by_one(batches), *bytes_, plan.scheme, buffers_bytes=buffers, spared=self._spared(batches, counts)
            )
            for (bits, batches, counts), bytes_ in zip(parts or [(plan.bits, spent, filtered)], radio, strict=False)
        ]

    def _choice(self, wish: Wish, plan: Plan, bits: Mapping[str, int]) -> str:
        """Say in words which bits were wished and what became of them."""
        asked = f"{self.policy.kind} asks for {self._mean_bits(wish.bits):.3g} bits"
        moved = "" if bits == plan.bits else f"{self._mean_bits(bits):.3g} at the end of the round"
        return "; ".join(part for part in (asked + (f" ({wish.why})" if wish.why else ""), plan.reason, moved) if part)

    def _overhead_bytes(self, corrected: bool) -> int:
        """Return what a message has beyond the model, at most: at the widest codes, places take the most digits.

        A compressed upload does not have the planned widths: all of it is beyond the model.
        """
        epoch = -(-self.samples // self.batch)
        adaptation = self.policy.adaptation(epoch, {})
        segments = -(-self.epochs * epoch // adaptation.every) if adaptation else 0
        wire = FLOAT_BITS if self.policy.master else HIGHEST_BITS
        widest = dict.fromkeys(self.messages.weights, wire)
        longest = self.filter.longest(min(self.batch, self.samples), self.epochs * self.samples)
        lengths = self.messages.lengths(widest, self.policy.grid, segments, self.link.bits, corrected, longest=longest)
        payload = self.cost.payload_bytes(dict.fromkeys(self.messages.weights, HIGHEST_BITS))
        return -(-(sum(lengths) - (1 if self.link.bits else 2) * payload) // 2)

    def _kept_bytes(self, proximal_mu: float, corrected: bool) -> int:
        """Return what is kept in float beside the model: the start for FedProx's pull, a correction, what the link and the
        sample filter need.
        """
        weights = sum(shape.weights for shape in self.cost.shapes)
        whole = weights + sum(shape.float_parameters for shape in self.cost.shapes)
        kept = weights * self.link.floats_a_weight + self.filter.kept_floats(self.cost.workloads.input_shape)
        return FLOAT_BYTES * (whole * (bool(proximal_mu) + corrected) + kept)

    def _mean_bits(self, bits: Mapping[str, int]) -> float:
        weights = self.cost.weights
        return sum(weights[layer] * width for layer, width in bits.items()) / max(sum(weights[layer] for layer in bits), 1)


def _highest(cost: CostModel, demand: Demand, plan: Plan) -> dict[str, int]:
    """Return how wide all layers could be together, none below the plan; a round at these fits the same budgets."""
    widest = {layer: max(bits, HIGHEST_BITS) for layer, bits in plan.bits.items()}
    raised = cost.plan(replace(demand, wish=widest, at_least=plan.bits, batch=plan.batch, ladder=("bits",)))
    return raised.bits if isinstance(raised, Plan) else plan.bits


def _counts(filtered: Filtered | None) -> tuple[int, ...]:
    return (filtered.seen, filtered.trained, filtered.steps) if filtered else ()


def _one_by_one(batches: Mapping[int, int]) -> list[int]:
    return [size for size, count in batches.items() for _ in range(count)]


def _columns(costs: Sequence[Cost]) -> dict[str, Any]:
    """Return what the parts of a round cost together, under the names of the ledger's columns: sums, and the highest memory."""
    parts = [_columns_of(cost) for cost in costs]
    return {name: (max if name.startswith("memory_") else sum)(part[name] for part in parts) for name in parts[0]}


def _columns_of(cost: Cost) -> dict[str, Any]:
    return {
        "macs": cost.macs,
        "backward_samples": cost.backward_samples,
        "spared_samples": cost.spared_samples,
        "energy_j": cost.energy.total_j,
        **{f"energy_{part}": value for part, value in vars(cost.energy).items()},
        **{f"energy_{table}_j": energy.total_j for table, energy in cost.energies.items()},
        "energy_operands_j": cost.energy_operands.total_j,
        "time_s": cost.time.total_s,
        **{f"time_{part}": value for part, value in vars(cost.time).items()},
        "memory_bytes": cost.memory.total_bytes,
        "memory_container_bytes": cost.memory_container.total_bytes,
    }
