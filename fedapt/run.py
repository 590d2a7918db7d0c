"""One run from scenario to results: the story of fedapt.

Each round the strategy addresses a cohort through the Gateway, gets updates back, and makes the next global model; the round is
committed with its ledger before the next one begins.
"""

from __future__ import annotations

import time
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
from fedapt.deploy.local_superlink import run_on_superlink
from fedapt.engines import open_transport
from fedapt.enrolment import Enrolment, enrol
from fedapt.errors import RunFailed
from fedapt.evaluation import UNKNOWN, Evaluator
from fedapt.grid.gateway import Gateway, Transport
from fedapt.models import build
from fedapt.narrator import Narrator, causes
from fedapt.quant.skeleton import float_arrays
from fedapt.record.standings import Standings
from fedapt.record.totals import Totals, round_record
from fedapt.report.html import write_report
from fedapt.report.terminal import Display
from fedapt.results import RunFolder, environment
from fedapt.scenario import Scenario, dump_scenario
from fedapt.seeding import numpy_stream
from fedapt.stopping import Stopper

Arrays = dict[str, np.ndarray]


def run(scenario: Scenario, root: Path, display: Display, stopper: Stopper, transport: Transport | None = None) -> Path:
    """Run a scenario and return the run folder; whatever ends the run early, the committed rounds are kept.

    With `transport`, clients are reached through it, and not through what the scenario's engine names.
    """
    if scenario.engine.kind == "superlink" and transport is None:
        return run_on_superlink(scenario, root, display)
    folder = RunFolder.create(root, scenario.name)
    with Narrator(display, folder.path / "run.log") as narrator:
        narrator.begin(folder.path, scenario)
        torch.set_num_threads(scenario.engine.threads)
        folder.write_start(dump_scenario(scenario), environment())
        federation = load(scenario.data, scenario.clients.count, scenario.seed)
        enrolment = enrol(scenario, federation)
        narrator.enrolled(enrolment)
        model = build(scenario.model, federation.shape, federation.classes, scenario.seed)
        evaluator = Evaluator(scenario.model, federation.test, federation.classes, scenario.engine.threads)
        gateway = Gateway(
            transport or open_transport(scenario.engine, enrolment),
            enrolment.participants,
            enrolment.wishes,
            scenario.seed,
            linear=scenario.strategy.linear,
            on_outcome=narrator.outcome,
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
            score = self._evaluator.score(arrays) if self._due(number, self._scenario.evaluate.every) else UNKNOWN
            record = round_record(number, rows, *score, wish, len(cohort), time.monotonic() - began)
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
            raise RunFailed(f"round {number}: none of {clients} clients returned an update: {causes(gateway.rows)}")
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
