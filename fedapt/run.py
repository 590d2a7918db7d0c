"""One run from scenario to results: the story of fedapt.

Each round the strategy addresses a cohort through the Gateway, gets updates back, and makes the next global model; the round is
committed with its ledger before the next one begins.
"""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import Strategy

from fedapt.clients.instructions import EvaluateReport
from fedapt.cost.ledger import LedgerRow, RoundRecord
from fedapt.data import load
from fedapt.enrolment import Enrolment, enrol
from fedapt.errors import RunFailed, SetupError
from fedapt.evaluation import Evaluator, Score
from fedapt.grid.gateway import Gateway, Transport
from fedapt.grid.inline import Inline
from fedapt.grid.visit import Outcome
from fedapt.local_superlink import run_on_superlink
from fedapt.models import build
from fedapt.quant.skeleton import float_arrays
from fedapt.report.html import write_report
from fedapt.report.terminal import Display
from fedapt.results import RunFolder, environment
from fedapt.scenario import Engine, Scenario, dump_scenario
from fedapt.seeding import numpy_stream
from fedapt.standings import Standings
from fedapt.stopping import Stopper
from fedapt.totals import Totals

Arrays = dict[str, np.ndarray]


def run(scenario: Scenario, root: Path, display: Display, stopper: Stopper, transport: Transport | None = None) -> Path:
    """Run a scenario and return the run folder; whatever ends the run early, the committed rounds are kept.

    With `transport`, clients are reached through it, and not through what the scenario's engine names.
    """
    if scenario.engine.kind == "superlink" and transport is None:
        return run_on_superlink(scenario, root, display)
    folder = RunFolder.create(root, scenario.name)
    with _logged(folder.path / "run.log") as log:
        display.start(folder.path, scenario.rounds, _about(scenario))
        torch.set_num_threads(scenario.engine.threads)
        folder.write_start(dump_scenario(scenario), environment())
        federation = load(scenario.data, scenario.clients.count, scenario.seed)
        enrolment = enrol(scenario, federation)
        _announce_float_layers(enrolment, display)
        _announce_refusals(enrolment, display, log)
        model = build(scenario.model, federation.shape, federation.classes, scenario.seed)
        evaluator = Evaluator(scenario.model, federation.test, federation.classes, scenario.engine.threads)
        gateway = Gateway(
            transport or open_transport(scenario.engine, enrolment),
            enrolment.participants,
            enrolment.wishes,
            scenario.seed,
            linear=scenario.strategy.linear,
            on_outcome=lambda outcome: _note(outcome, display, log),
        )
        story = Story(scenario, gateway, enrolment, evaluator, folder, display, stopper)
        try:
            story.play({name: values.numpy() for name, values in float_arrays(model).items()})
        finally:
            gateway.close()
            story.finish()
    return folder.path


class Story:
    """The rounds of one run, and what is known of them so far."""

    def __init__(
        self,
        scenario: Scenario,
        gateway: Gateway,
        enrolment: Enrolment,
        evaluator: Evaluator,
        folder: RunFolder,
        display: Display,
        stopper: Stopper,
    ) -> None:
        self._scenario, self._gateway, self._enrolment = scenario, gateway, enrolment
        self._evaluator, self._folder, self._display, self._stopper = evaluator, folder, display, stopper
        self._strategy: Strategy = scenario.strategy.build()
        self._totals, self._standings = Totals(), Standings()
        self._records: list[RoundRecord] = []
        self._client_scores: dict[int, EvaluateReport] = {}
        self._arrays: Arrays = {}

    def play(self, arrays: Arrays) -> None:
        """Play all rounds, beginning with this global model."""
        self._arrays = arrays
        for number in range(self._scenario.rounds):
            began = time.monotonic()
            cohort = self._cohort(number)
            self._display.round_started(number, len(cohort))
            wish = dict(self._wish())
            self._gateway.open_round(number, cohort)
            arrays = self._train(number)
            rows = [*(self._enrolment.refused if number == 0 else ()), *self._gateway.rows]
            if self._due(number, self._scenario.evaluate.clients_every):
                self._evaluate_on_clients(number, arrays)
            score = self._evaluator.score(arrays) if self._due(number, self._scenario.evaluate.every) else None
            record = _record(number, rows, score, wish, len(cohort), time.monotonic() - began)
            with self._stopper.held():
                self._commit(arrays, record, rows)

    def _cohort(self, number: int) -> list[int]:
        clients = sorted(self._enrolment.participants)
        size = min(self._scenario.clients.per_round, len(clients))
        return sorted(int(c) for c in numpy_stream(self._scenario.seed, "cohort", number).choice(clients, size, replace=False))

    def _train(self, number: int) -> Arrays:
        """Return the next global model: Flower counts rounds from 1."""
        strategy, gateway = self._strategy, self._gateway
        record = ArrayRecord({name: Array(values) for name, values in self._arrays.items()})
        with self._blaming_the_strategy(number):
            messages = strategy.configure_train(number + 1, record, ConfigRecord(), gateway)
        replies = gateway.send_and_receive(messages)
        if not replies:
            clients = len(gateway.get_node_ids())
            raise RunFailed(f"round {number}: none of {clients} clients returned an update: {_causes(gateway.rows)}")
        with self._blaming_the_strategy(number):
            aggregated, _ = strategy.aggregate_train(number + 1, replies)
            if aggregated is None:
                raise ValueError(f"it made no model of {len(replies)} replies")
            arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in aggregated.items()}
            for name, values in self._arrays.items():
                if name not in arrays or arrays[name].shape != values.shape or not np.isfinite(arrays[name]).all():
                    raise ValueError(f"it returned a {name} that is missing, of another shape or not finite")
        return arrays

    @contextmanager
    def _blaming_the_strategy(self, number: int) -> Iterator[None]:
        """Turn whatever a strategy raises into one sentence; the traceback is in run.log."""
        try:
            yield
        except Exception as error:
            kind = self._scenario.strategy.kind
            raise RunFailed(f"round {number}: the strategy {kind} failed: {type(error).__name__}: {error}") from error

    def _evaluate_on_clients(self, number: int, arrays: Arrays) -> None:
        """Evaluate the model on every client's held-out samples, at the bits that this client would get."""
        gateway = self._gateway
        with_samples = [client for client, participant in self._enrolment.participants.items() if participant.held_out]
        if not with_samples:
            return
        gateway.open_round(number, with_samples)
        record = ArrayRecord({name: Array(values) for name, values in arrays.items()})
        with self._blaming_the_strategy(number):
            messages = self._strategy.configure_evaluate(number + 1, record, ConfigRecord(), gateway)
        replies = gateway.send_and_receive(messages)
        with self._blaming_the_strategy(number):
            self._strategy.aggregate_evaluate(number + 1, replies)
        reports = {outcome.client: outcome.report for outcome in gateway.outcomes}
        self._client_scores = {client: report for client, report in reports.items() if isinstance(report, EvaluateReport)}

    def _due(self, number: int, every: int | None) -> bool:
        return number + 1 == self._scenario.rounds or (every is not None and (number + 1) % every == 0)

    def _wish(self) -> dict[str, int]:
        """Return the bits that the first client's policy asks for now: what reports call the federation's wish."""
        first = next(iter(self._enrolment.participants.values()))
        return self._enrolment.wishes.of(first.policy, first.client).bits

    def _commit(self, arrays: Arrays, record: RoundRecord, rows: Sequence[LedgerRow]) -> None:
        self._arrays = arrays
        self._totals.add(rows)
        self._standings.add(rows)
        self._folder.commit_round(record, rows)
        self._records.append(record)
        self._display.round_done(record)

    def finish(self) -> None:
        """Write the results of the rounds that were committed, and the report."""
        if not self._records:
            return
        clients = self._standings.records(self._enrolment, self._client_scores)
        summary = self._totals.summarise(self._records, clients)
        self._folder.finish(self._arrays, clients, summary)
        write_report(self._folder.path)
        self._display.finish(summary, self._folder.path)


def open_transport(engine: Engine, enrolment: Enrolment) -> Transport:
    """Start what carries tasks to clients; raises SetupError if something for it is not installed."""
    if engine.kind == "inline":
        return Inline(enrolment.workshop.open())
    try:
        from fedapt.grid.ray_pool import RayPool
    except ImportError as error:
        raise SetupError(
            f"engine.kind ray needs Ray ({error}): pip install 'fedapt[sim]', or set engine.kind to inline"
        ) from None
    workers = len(os.sched_getaffinity(0)) if engine.workers == "auto" else engine.workers
    return RayPool(
        enrolment.workshop,
        workers,
        threads=engine.threads,
        chunk=None if engine.chunk == "auto" else engine.chunk,
        max_attempts=engine.max_attempts,
        task_timeout_s=engine.task_timeout_s,
    )


def _record(
    number: int, rows: Sequence[LedgerRow], score: Score | None, wish: dict[str, int], cohort: int, wall_s: float
) -> RoundRecord:
    """Add up one round's rows."""
    ok = [row for row in rows if row.status == "ok"]
    samples = sum(row.samples for row in ok)
    return RoundRecord(
        round=number,
        accuracy=score.accuracy if score else None,
        loss=score.loss if score else None,
        train_loss=sum((row.train_loss or 0.0) * row.samples for row in ok) / samples if samples else None,
        mean_bits=sum(row.mean_bits or 0.0 for row in ok) / len(ok) if ok else None,
        wish_bits=wish,
        cohort=cohort,
        ok=len(ok),
        failed=sum(row.status in ("failed", "rejected") for row in rows),
        energy_j=sum(row.energy_j for row in rows),
        time_s=max((row.time_s for row in rows), default=0.0),
        downlink_bytes=sum(row.downlink_bytes for row in rows),
        uplink_bytes=sum(row.uplink_bytes for row in rows),
        memory_bytes=max((row.memory_bytes for row in rows), default=0),
        wall_s=wall_s,
    )


def _about(scenario: Scenario) -> list[str]:
    clients, data = scenario.clients, scenario.data
    return [
        f"{clients.count} clients, {clients.per_round} a round",
        f"data {Path(data.source).name}, {data.partition.kind}",
        f"model {scenario.model}",
        f"precision {clients.method.precision.kind}",
        f"strategy {scenario.strategy.kind}",
        f"engine {scenario.engine.kind}",
        f"seed {scenario.seed}",
    ]


def _announce_float_layers(enrolment: Enrolment, display: Display) -> None:
    """Name the layers that no policy can quantise; they are charged at 32 bits."""
    shapes = next(iter(enrolment.participants.values())).cost.shapes
    if names := [shape.name for shape in shapes if shape.kind == "float"]:
        display.message(f"Kept in float, and charged as such: {', '.join(names)}")


def _announce_refusals(enrolment: Enrolment, display: Display, log: logging.Logger) -> None:
    """Say before training which clients cannot take part, one sentence for each reason."""
    clients: dict[str, list[int]] = {}
    for row in enrolment.refused:
        clients.setdefault(f"{row.group}: {row.reason}", []).append(row.client)
        log.warning("client %d refused: %s: %s", row.client, row.group, row.reason)
    for reason, numbers in clients.items():
        display.warning(f"{len(numbers)} of {len(enrolment.group_of)} clients cannot take part: {reason}")


def _note(outcome: Outcome, display: Display, log: logging.Logger) -> None:
    """Move the progress bar; write what went wrong into the log, with the client's traceback."""
    display.client_done()
    if outcome.status != "ok":
        log.warning(
            "client %d, attempt %d, %s: %s\n%s", outcome.client, outcome.attempt, outcome.status, outcome.reason, outcome.log
        )


def _causes(rows: Sequence[LedgerRow]) -> str:
    """Return the causes of failures, the most frequent first, as part of a sentence."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.reason] = counts.get(row.reason, 0) + 1
    return "; ".join(f"{count} x {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])[:3])


@contextmanager
def _logged(path: Path) -> Iterator[logging.Logger]:
    """Write warnings, and the traceback of whatever ends the run, into the run folder."""
    logger = logging.Logger("fedapt.run", logging.INFO)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    try:
        yield logger
    except BaseException as error:
        logger.error("the run ended early: %s\n%s", error, traceback.format_exc())
        raise
    finally:
        handler.close()
