"""A Gateway without rounds: the strategy is handed the updates that came back, whenever their clients were asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flwr.app import Message

from fedapt.clients.instructions import TrainReport
from fedapt.clock.asynchronous import Asynchronous
from fedapt.cost.ledger import LedgerRow
from fedapt.errors import RunFailed
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flights import Brought, Flights, Landed, Roster
from fedapt.grid.flower import TRAIN
from fedapt.grid.gateway import Gateway
from fedapt.grid.post import Order, mean_reply, update_replies
from fedapt.grid.visit import Arrays, Outcome, Task, add_up
from fedapt.grid.wishes import Observation


class AsynchronousGateway(Gateway):
    """Of the clients that the strategy sends its model to, those get it that the roster chooses, one after another."""

    def __init__(self, *given: Any, asynchronous: Asynchronous, roster: Roster, **named: Any) -> None:
        super().__init__(*given, **named)
        self._flights = Flights(asynchronous, self._per_round, roster)
        self._ends_s, self._stepped = 0.0, False

    @property
    def lasted_s(self) -> float:
        """How long it took from one step of the server to the next, in the devices' time."""
        return self._ends_s - self._now_s

    def open_round(self, round: int, nodes: Sequence[int], now_s: float = 0.0) -> None:
        """Show these clients to the strategy; a step takes no time until somebody is asked to train."""
        super().open_round(round, nodes, now_s)
        self._ends_s, self._stepped = now_s, False

    def _train(self, arrays: Arrays, orders: Sequence[Order]) -> list[Message]:
        if self._stepped:
            raise RunFailed(
                f"round {self._round}: the strategy sends clients different models, and with `clock: asynchronous` nobody knows"
                " who will be asked of which; send one model to all, or use `clock: synchronous`"
            )
        self._stepped = True
        given = {order.client: order for order in orders}
        tasks: dict[int, Task] = {}
        refused: dict[int, LedgerRow] = {}

        def lasts_s(client: int) -> float | None:
            if client not in given:
                return None
            work = tasks.get(client) or self._task(given[client], TRAIN)
            if isinstance(work, LedgerRow):
                refused[client] = work
                return None
            tasks[client] = work
            return self.participants[client].predicted_time_s(work.plan)

        def play(clients: Sequence[int]) -> Mapping[int, Brought]:
            outcomes = self._play(self._transport.exchange(arrays, [tasks[client] for client in clients], None))
            return {client: self._brought(tasks[client], [one for one in outcomes if one.client == client]) for client in clients}

        landed, self._ends_s = self._flights.step(self._round, self._now_s, lasts_s, play)
        replies = self._land(arrays, sorted(landed, key=lambda one: (one.client, one.staleness)))
        self.rows += refused.values()
        return replies

    def _brought(self, task: Task, attempts: Sequence[Outcome]) -> Brought:
        last = attempts[-1]
        brought = Brought(tuple(self._row(task, outcome) for outcome in attempts), last.kept or {})
        if last.status != "ok" or not isinstance(last.report, TrainReport):
            return brought
        seen, metrics = self._observation(task, last), self.participants[task.client].metrics(last, task)
        brought = replace(brought, report=last.report, update=last.update, part=last.part)
        return replace(brought, bits=seen.bits, moves=seen.moves, metrics=metrics)

    def _land(self, arrays: Arrays, landed: Sequence[Landed]) -> list[Message]:
        """Write down what came back, and return it as replies to the strategy."""
        trained, told = [], []
        total = ExactSum() if self._linear else None
        for client, staleness, brought in ((one.client, one.staleness, one.brought) for one in landed):
            self.client_states |= {client: dict(brought.kept)} if brought.kept else {}
            if brought.report is None or brought.update is None:
                self.rows += brought.rows
                continue
            outcome = Outcome(client, "ok", report=brought.report, update=dict(brought.update), part=brought.part)
            if total is not None:
                outcome = add_up(outcome, total)
            self.rows += [*brought.rows[:-1], replace(brought.rows[-1], status=outcome.status, reason=outcome.reason)]
            if outcome.status == "ok":
                participant = self.participants[client]
                self.wishes.observe(
                    Observation(client, participant.policy, participant.lr, brought.bits, brought.report, brought.moves)
                )
                trained.append(outcome)
                told.append({**brought.metrics, "staleness": staleness})
        return mean_reply(arrays, trained, told, total) if total is not None else update_replies(arrays, trained, told)

    def give_up(self) -> list[LedgerRow]:
        """Return the rows of clients that are still at work when the run ends; what they do is charged."""
        return self._flights.give_up(self._round)

    def state(self) -> dict[str, Any]:
        """Return what outlives a step, as plain data."""
        return {**super().state(), "flights": self._flights.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` returned; raises ValueError, TypeError or KeyError for anything else."""
        super().restore(state)
        self._flights.restore(state["flights"])
