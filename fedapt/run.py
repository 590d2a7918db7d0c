"""One run from scenario to results: the story of fedapt.

Each round the strategy addresses a cohort through the Gateway, gets updates back, and makes the next global model; the round is
committed, with its ledger and all that the next one needs, before the next one begins. A run that was ended goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
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
from fedapt.enrolment import Enrolment, cohort, enrol
from fedapt.environment import environment
from fedapt.errors import CannotResume, FedaptError, RunFailed
from fedapt.evaluation import UNKNOWN, Evaluator
from fedapt.grid.gateway import Gateway, Transport
from fedapt.models import build
from fedapt.narrator import Narrator
from fedapt.quant.skeleton import float_arrays
from fedapt.quorum import Quorum
from fedapt.record.checkpoint import Checkpoint
from fedapt.record.crash_points import CrashPoint, crash_point
from fedapt.record.lock import in_use
from fedapt.record.plain import NotPlain
from fedapt.record.standings import Standings
from fedapt.record.strategy_state import restore, state_of
from fedapt.record.totals import Totals, in_order, round_record
from fedapt.report.html import write_report
from fedapt.report.terminal import Display
from fedapt.results import RunFolder
from fedapt.scenario import Scenario, dump_scenario
from fedapt.stopping import Stopper

Arrays = dict[str, np.ndarray]


def run(scenario: Scenario, root: Path, display: Display, stopper: Stopper, transport: Transport | None = None) -> Path:
    """Run a scenario and return the run folder; whatever ends the run early, the committed rounds are kept.

    With `transport`, clients are reached through it, and not through what the scenario's engine names.
    """
    if scenario.engine.kind == "superlink" and transport is None:
        return run_on_superlink(scenario, root, display)
    folder = RunFolder.create(root, scenario.name)
    with in_use(folder.path):
        torch.set_num_threads(scenario.engine.threads)
        text = dump_scenario(scenario)
        folder.write_start(text, environment(text))
        play(scenario, folder, display, stopper, transport)
    return folder.path


def play(
    scenario: Scenario,
    folder: RunFolder,
    display: Display,
    stopper: Stopper,
    transport: Transport | None,
    *,
    resumed: bool = False,
) -> None:
    """Play a run into its folder, from the first round or from where its commits end."""
    with Narrator(display, folder.path / "run.log") as narrator:
        narrator.begin(folder.path, scenario)
        state, problem = folder.recover() if resumed else (None, "")
        federation = load(scenario.data, scenario.clients.count, scenario.seed)
        enrolment = enrol(scenario, federation)
        narrator.enrolled(enrolment)
        model = build(scenario.model, federation.data_shape, scenario.seed)
        evaluator = Evaluator(scenario.model, federation.test, federation.classes, scenario.engine.threads)
        gateway = Gateway(
            transport or open_transport(scenario.engine, enrolment),
            enrolment.participants,
            enrolment.wishes,
            scenario.seed,
            linear=scenario.strategy.linear,
            deadline_s=scenario.failures.deadline_s,
            batteries=enrolment.batteries,
            on_outcome=narrator.outcome,
        )
        start = {name: values.numpy() for name, values in float_arrays(model).items()}
        story = Story(scenario, gateway, enrolment, evaluator, folder, narrator, stopper, start)
        try:
            if resumed:
                story.take_up(state, problem)
            story.play()
        except BaseException as error:
            story.finish_early(error)
            raise
        finally:
            gateway.close()
        story.finish()


class Story:
    """The rounds of one run, and what is known of them so far. arrays: the global model before the first round."""

    def __init__(
        self,
        scenario: Scenario,
        gateway: Gateway,
        enrolment: Enrolment,
        evaluator: Evaluator,
        folder: RunFolder,
        narrator: Narrator,
        stopper: Stopper,
        arrays: Arrays,
    ) -> None:
        self._scenario, self._gateway, self._enrolment = scenario, gateway, enrolment
        self._evaluator, self._folder, self._stopper = evaluator, folder, stopper
        self._narrator, self._display = narrator, narrator.display
        self._strategy: Strategy = scenario.strategy.build()
        self._quorum = Quorum(scenario.failures, scenario.strategy)
        self._totals, self._standings = Totals(), Standings()
        self._records: list[RoundRecord] = []
        self._client_scores: dict[int, EvaluateReport] = {}
        self._arrays = arrays

    def take_up(self, state: Mapping[str, bytes] | None, problem: str) -> None:
        """Go on after the committed rounds, the newest of which left this state; raises CannotResume if it does not fit."""
        for record, rows in self._folder.committed():
            self._totals.add(rows)
            self._standings.add(rows)
            self._quorum.count(rows)
            self._records.append(record)
        self._narrator.resumed(len(self._records), self._scenario.rounds, problem)
        if state is None:
            return
        checkpoint = Checkpoint.from_files(state)
        if checkpoint.strategy is None:
            raise CannotResume(checkpoint.obstacle)
        shapes = {name: values.shape for name, values in self._arrays.items()}
        if {name: values.shape for name, values in checkpoint.model.items()} != shapes:
            raise CannotResume(f"{self._folder.path} holds another model than the {self._scenario.model.kind} of its scenario.")
        self._arrays = dict(checkpoint.model)
        restore(self._strategy, dict(checkpoint.strategy))
        self._enrolment.wishes.learned.update(checkpoint.wishes)
        self._enrolment.batteries.level_j.update(checkpoint.batteries)
        self._client_scores = dict(checkpoint.scores)

    def play(self) -> None:
        """Play all rounds that are not committed yet."""
        for number in range(len(self._records), self._scenario.rounds):
            began = time.monotonic()
            chosen = cohort(self._scenario, self._enrolment.participants, number)
            self._display.round_started(number, len(chosen))
            wish = dict(self._wish())
            self._gateway.open_round(number, chosen)
            arrays = self._train(number)
            rows = in_order([*(self._enrolment.refused if number == 0 else ()), *self._gateway.rows])
            if self._due(number, self._scenario.evaluate.clients_every):
                self._evaluate_on_clients(number, arrays)
            score = self._evaluator.score(arrays) if self._due(number, self._scenario.evaluate.every) else UNKNOWN
            record = round_record(
                number, rows, *score, wish, len(chosen), time.monotonic() - began, self._scenario.failures.deadline_s
            )
            self._enrolment.batteries.pass_round(rows, record.time_s + self._scenario.clients.batteries.between_rounds_s)
            crash_point(CrashPoint.TRAINED)
            with self._stopper.held():
                self._commit(arrays, record, rows)
            self._quorum.check(number, rows)

    def _train(self, number: int) -> Arrays:
        """Return the next global model: Flower counts rounds from 1."""
        strategy, gateway = self._strategy, self._gateway
        record = ArrayRecord({name: Array(values) for name, values in self._arrays.items()})
        with self._blaming_the_strategy(number):
            messages = strategy.configure_train(number + 1, record, ConfigRecord(), gateway)
        replies = gateway.send_and_receive(messages)
        if shortage := self._quorum.shortage(gateway.rows):
            self._narrator.warning(f"round {number} is empty, the model stays as it is: {shortage}")
            self._enrolment.wishes.discard()
            return self._arrays
        with self._blaming_the_strategy(number):
            aggregated, _ = strategy.aggregate_train(number + 1, replies)
            if aggregated is None:
                raise ValueError(f"it made no model of {len(replies)} replies")
            arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in aggregated.items()}
            for name, values in self._arrays.items():
                if name not in arrays or arrays[name].shape != values.shape or not np.isfinite(arrays[name]).all():
                    raise ValueError(f"it returned a {name} that is missing, of another shape or not finite")
        self._enrolment.wishes.adapt(self._arrays, arrays)
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
        self._folder.commit_round(record, rows, self._checkpoint(arrays).files(), self._scenario.keep.models)
        self._arrays = arrays
        self._totals.add(rows)
        self._standings.add(rows)
        self._quorum.count(rows)
        self._records.append(record)
        self._display.round_done(record)

    def _checkpoint(self, arrays: Arrays) -> Checkpoint:
        strategy, obstacle = None, ""
        try:
            strategy = state_of(self._strategy, self._scenario.strategy.build())
        except NotPlain as error:
            obstacle = (
                f"the strategy {self._scenario.strategy.kind} cannot be resumed: its {error}, which is not saved;"
                " give it state_dict() and load_state_dict()."
            )
            if not self._records:
                self._narrator.warning(obstacle)
        enrolment = self._enrolment
        return Checkpoint(arrays, strategy, obstacle, enrolment.wishes.learned, self._client_scores, enrolment.batteries.level_j)

    def finish(self) -> None:
        """Write the results of the rounds that were committed, and the report."""
        if not self._records:
            return
        clients = self._standings.records(self._enrolment, self._client_scores)
        summary = self._totals.summarise(self._records, clients)
        self._folder.finish(self._arrays, clients, summary)
        write_report(self._folder.path)
        if len(self._records) == self._scenario.rounds:
            self._folder.complete()
        self._display.finish(summary, self._folder.path)

    def finish_early(self, error: BaseException) -> None:
        """Finish a run that this has ended; what keeps the results from being written is noted, and hides nothing."""
        try:
            self.finish()
        except FedaptError as second:
            error.add_note(f"and the results were not written: {second}")
