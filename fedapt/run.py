"""One run from scenario to results: the story of fedapt.

Each round the strategy addresses a cohort through the Gateway, gets updates back, and makes the next global model; the round is
committed, with its ledger and all that the next one needs, before any client of the next one has answered. A run that was ended
goes on from there.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from fedapt.clients.instructions import EvaluateReport
from fedapt.clock.asynchronous import Asynchronous
from fedapt.cost.ledger import LedgerRow, RoundRecord
from fedapt.data import load
from fedapt.deploy.local_superlink import run_on_superlink
from fedapt.engines import begin, open_gateway
from fedapt.enrolment import Enrolment, enrol, require_room
from fedapt.environment import environment
from fedapt.errors import CannotResume, DamagedData, FedaptError
from fedapt.evaluation import UNKNOWN, Evaluator
from fedapt.grid.gateway import Gateway, Transport
from fedapt.models import build
from fedapt.narrator import Narrator
from fedapt.pretraining import pretrained
from fedapt.quant.skeleton import float_arrays
from fedapt.quorum import Quorum
from fedapt.record.checkpoint import Checkpoint
from fedapt.record.crash_points import CrashPoint, crash_point
from fedapt.record.lock import in_use
from fedapt.record.plain import NotPlain
from fedapt.record.standings import Standings
from fedapt.record.totals import Totals, in_order, round_record
from fedapt.report.html import write_report
from fedapt.report.terminal import Display
from fedapt.results import RunFolder
from fedapt.scenario import Scenario, dump_scenario
from fedapt.seat import Seat
from fedapt.selection.cohorts import Cohorts
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
        engine = scenario.engine
        folder.write_start(text, environment(text, gpu=engine.wants_gpu, half=engine.compute == "bfloat16"))
        play(scenario, folder, display, stopper, transport)
    return folder.path


def played_inline(scenario: Scenario) -> Scenario:
    """Return the scenario with an engine that needs no other process; its results are the same."""
    return scenario.model_copy(update={"engine": scenario.engine.model_copy(update={"kind": "inline"})})


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
    with Narrator(display, folder.path / "run.log") as narrator, begin(scenario.engine, transport) as session:
        narrator.begin(folder.path, scenario)
        seat = Seat(scenario.strategy)
        state, problem = folder.recover() if resumed else (None, "")
        federation = load(scenario.data, scenario.clients.count, scenario.seed)
        require_room(scenario, federation)
        model = build(scenario.model, federation.data_shape, scenario.seed)
        start = {name: values.numpy() for name, values in float_arrays(model).items()}
        if scenario.pretrain:
            begun = pretrained(scenario, federation, start, folder.path, display.pretraining)
            narrator.pretrained(begun.origin)
            start = begun.arrays
        enrolment = enrol(scenario, federation, start)
        narrator.enrolled(enrolment)
        evaluator = Evaluator(
            scenario.model,
            federation.test,
            federation.classes,
            scenario.engine.threads,
            channels_last=scenario.engine.channels_last,
        )
        cohorts = Cohorts(scenario, enrolment)
        gateway = open_gateway(scenario, enrolment, cohorts, transport, narrator.outcome, session, lambda: story.settle())
        parts = (scenario, seat, gateway, enrolment, cohorts, evaluator, folder, narrator, stopper, start)
        story = Story(*parts, commits_later=session is not None)
        try:
            if resumed:
                story.take_up(state, problem)
            # What stands by now stays: the many objects of a round make Python look through all others again and again.
            gc.freeze()
            story.play()
        except BaseException as error:
            story.finish_early(error)
            raise
        finally:
            gc.unfreeze()
            gateway.close()
        story.finish()


class _Played(NamedTuple):
    """A round that is not committed yet: what is written, of which nothing changes any more, and the results at its end."""

    record: RoundRecord
    rows: Sequence[LedgerRow]
    state: Mapping[str, bytes]
    arrays: Arrays
    client_scores: Mapping[int, EvaluateReport]


class Story:
    """The rounds of one run, and what is known of them so far.

    arrays: the global model before the first round. commits_later: the gateway calls `settle` once the clients of the next round
    are at work, which need not wait for the disk.
    """

    def __init__(
        self,
        scenario: Scenario,
        seat: Seat,
        gateway: Gateway,
        enrolment: Enrolment,
        cohorts: Cohorts,
        evaluator: Evaluator,
        folder: RunFolder,
        narrator: Narrator,
        stopper: Stopper,
        arrays: Arrays,
        *,
        commits_later: bool,
    ) -> None:
        self._scenario, self._gateway, self._enrolment = scenario, gateway, enrolment
        self._evaluator, self._folder, self._stopper = evaluator, folder, stopper
        self._narrator, self._display = narrator, narrator.display
        self._seat = seat
        self._quorum = Quorum(scenario.failures, scenario.strategy)
        self._totals, self._standings, self._cohorts = Totals(), Standings(), cohorts
        self._records: list[RoundRecord] = []
        self._client_scores: Mapping[int, EvaluateReport] = {}
        self._committed_scores: Mapping[int, EvaluateReport] = {}
        self._arrays, self._clock_s = arrays, 0.0
        self._committed_arrays = arrays
        self._commits_later = commits_later
        self._played: _Played | None = None

    def take_up(self, state: Mapping[str, bytes] | None, problem: str) -> None:
        """Go on after the committed rounds, the newest of which left this state; raises CannotResume if it does not fit."""
        for record, rows in self._folder.committed():
            self._totals.add(rows)
            self._standings.add(rows)
            self._cohorts.add(rows)
            self._quorum.count(rows)
            self._remember(record)
        self._narrator.resumed(len(self._records), self._scenario.rounds, problem)
        if state is None:
            return
        checkpoint = Checkpoint.from_files(state)
        if checkpoint.strategy is None:
            raise CannotResume(checkpoint.obstacle)
        shapes = {name: values.shape for name, values in self._arrays.items()}
        if {name: values.shape for name, values in checkpoint.model.items()} != shapes:
            raise CannotResume(f"{self._folder.path} holds another model than the {self._scenario.model.kind} of its scenario.")
        self._arrays = self._committed_arrays = dict(checkpoint.model)
        self._clock_s = self._records[-1].clock_s
        self._seat.restore(checkpoint.strategy)
        self._enrolment.wishes.learned.update(checkpoint.wishes)
        self._enrolment.batteries.level_j.update(checkpoint.batteries)
        try:
            self._gateway.restore(checkpoint.gateway)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedData(f"{self._folder.path}: what its clients were at cannot be read ({error})") from None
        self._client_scores = self._committed_scores = dict(checkpoint.scores)

    def play(self) -> None:
        """Play all rounds that are not committed yet, and commit them."""
        for number in range(len(self._records), self._scenario.rounds):
            began, wish = time.monotonic(), dict(self._wish())
            asked, start_s = self._open_round(number)
            self._display.round_started(number, asked)
            arrays = self._train(number)
            lasted_s = self._gateway.lasted_s
            rows = self._rows(number)
            if self._due(number, self._scenario.evaluate.clients_every):
                self._evaluate_on_clients(number, arrays)
            score = self._evaluator.score(arrays) if self._due(number, self._scenario.evaluate.every) else UNKNOWN
            wall_s = time.monotonic() - began
            record = round_record(number, rows, *score, wish, asked, time_s=lasted_s, clock_s=start_s + lasted_s, wall_s=wall_s)
            self._enrolment.batteries.pass_round(rows, lasted_s + self._scenario.clients.batteries.between_rounds_s)
            crash_point(CrashPoint.TRAINED)
            self._close_round(arrays, record, rows)
            self._quorum.check(number, rows)
        self.settle()

    def _open_round(self, number: int) -> tuple[int, float]:
        """Show the strategy its clients; return how many are asked, and when, in simulated time, the round begins."""
        clients, clock, participants = self._scenario.clients, self._scenario.clock, self._enrolment.participants
        start_s = self._clock_s + clients.batteries.between_rounds_s if number else 0.0
        if isinstance(clock, Asynchronous):
            self._gateway.open_round(number, list(participants), start_s)
            return clients.per_round, start_s
        chosen, waited_s = self._cohorts.draw(number, start_s, clock.asked(clients.per_round))
        self._enrolment.batteries.pass_round((), waited_s)
        self._gateway.open_round(number, chosen, start_s + waited_s)
        return len(chosen), start_s + waited_s

    def _rows(self, number: int) -> list[LedgerRow]:
        """Return the round's ledger: in the first one with all that cannot take part, in the last with all still at work."""
        refused = self._enrolment.refused if number == 0 else ()
        at_work = self._gateway.give_up() if number + 1 == self._scenario.rounds else ()
        return in_order([*refused, *self._gateway.rows, *at_work])

    def _train(self, number: int) -> Arrays:
        """Return the next global model."""
        gateway = self._gateway
        replies = gateway.send_and_receive(self._seat.train_messages(number, self._arrays, gateway))
        if shortage := self._quorum.shortage(gateway.rows):
            self._narrator.warning(f"round {number} is empty, the model stays as it is: {shortage}")
            self._enrolment.wishes.discard()
            return self._arrays
        arrays = self._seat.aggregate(number, replies, self._arrays)
        self._enrolment.wishes.adapt(self._arrays, arrays)
        return arrays

    def _evaluate_on_clients(self, number: int, arrays: Arrays) -> None:
        """Evaluate the model on every client's held-out samples, at the bits that this client would get."""
        gateway = self._gateway
        with_samples = [client for client, participant in self._enrolment.participants.items() if participant.held_out]
        if not with_samples:
            return
        gateway.open_round(number, with_samples)
        replies = gateway.send_and_receive(self._seat.evaluation_messages(number, arrays, gateway))
        self._seat.take_evaluations(number, replies)
        self._client_scores = gateway.evaluated

    def _due(self, number: int, every: int | None) -> bool:
        return number + 1 == self._scenario.rounds or (every is not None and (number + 1) % every == 0)

    def _wish(self) -> dict[str, int]:
        """Return the bits that the first client's policy asks for now: what reports call the federation's wish."""
        first = next(iter(self._enrolment.participants.values()))
        return self._enrolment.wishes.of(first.policy, first.client).bits

    def _close_round(self, arrays: Arrays, record: RoundRecord, rows: Sequence[LedgerRow]) -> None:
        """Keep what the round has come to, to be committed as it stands now, and let it count for the next one."""
        self.settle()
        self._played = _Played(record, rows, self._checkpoint(arrays, record.round).files(), arrays, self._client_scores)
        self._arrays, self._clock_s = arrays, record.clock_s
        self._cohorts.add(rows)
        self._quorum.count(rows)
        if not self._commits_later:
            self.settle()

    def settle(self) -> None:
        """Commit the round that is not committed yet, if there is one; raises DamagedData."""
        if self._played is None:
            return
        with self._stopper.held():
            (record, rows, state, arrays, scores), self._played = self._played, None
            self._folder.commit_round(record, rows, state, self._scenario.keep.models)
            self._committed_arrays, self._committed_scores = arrays, scores
            self._totals.add(rows)
            self._standings.add(rows)
            self._remember(record)
            self._display.round_done(record)

    def _remember(self, record: RoundRecord) -> None:
        """Keep what the summary needs of a round; its widths by layer are in rounds.csv."""
        self._records.append(replace(record, wish_bits={}))

    def _checkpoint(self, arrays: Arrays, number: int) -> Checkpoint:
        strategy, obstacle = None, ""
        try:
            strategy = self._seat.state()
        except NotPlain as error:
            obstacle = (
                f"the strategy {self._scenario.strategy.kind} cannot be resumed: its {error}, which is not saved;"
                " give it state_dict() and load_state_dict()."
            )
            if number == 0:
                self._narrator.warning(obstacle)
        enrolment = self._enrolment
        return Checkpoint(
            arrays,
            strategy,
            obstacle,
            enrolment.wishes.learned,
            self._client_scores,
            enrolment.batteries.level_j,
            self._gateway.state(),
        )

    def finish(self) -> None:
        """Write the results of the rounds that were committed, and the report."""
        self.settle()
        if not self._records:
            return
        clients = self._standings.records(self._enrolment, self._committed_scores)
        engine = self._scenario.engine
        summary = self._totals.summarise(self._records, clients, channels_last=engine.channels_last, compute=engine.compute)
        self._folder.finish(self._committed_arrays, clients, summary)
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
