"""How long the simulation takes on this machine: a few real steps of each kind of client, on codes that are thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from fedapt.clients.faulty import Faults
from fedapt.cost.stopwatch import threads
from fedapt.data import Federation
from fedapt.enrolment import Enrolment
from fedapt.environment import usable_cores
from fedapt.evaluation import BATCH, Evaluator
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import identify_process
from fedapt.grid.visit import Arrays, Outcome, Task
from fedapt.scenario import Scenario

FEW, MORE = 1, 5
TEST_SAMPLES = 10 * BATCH
REPETITIONS = 3
ENOUGH_S = 1.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Pace:
    """Seconds of one core here. visit_s: a client's visit without training; sample_s: training on one sample, once.

    evaluation_s: a visit to evaluate on the client's own samples. problem: why the trial failed, "" if it did not.
    """

    visit_s: float
    sample_s: float
    evaluation_s: float
    problem: str = ""


@dataclass(frozen=True)
class Trial:
    """paces: by client, those of a client that does the same; test_s: one evaluation of the global model; workers: at work."""

    paces: Mapping[int, Pace]
    test_s: float
    workers: int

    def simulation_s(self, scenario: Scenario, enrolment: Enrolment, visits: Mapping[int, int]) -> float:
        """Return the wall time of the whole run, but for starting the engine; visits: by client, how often it trains."""
        participants, rounds, evaluate = enrolment.participants, scenario.rounds, scenario.evaluate
        work_s = 0.0
        for client, times in visits.items():
            pace, one = self.paces[client], participants[client]
            work_s += times * (pace.visit_s + pace.sample_s * one.samples * one.epochs)
        own = sum(self.paces[client].evaluation_s for client in self.paces if participants[client].held_out)
        work_s += own * _evaluations(rounds, evaluate.clients_every)
        return work_s / min(self.workers, scenario.clients.per_round) + self.test_s * _evaluations(rounds, evaluate.every)


def workers_of(scenario: Scenario) -> int:
    """Return how many clients the scenario's engine lets work at a time here."""
    engine, cores = scenario.engine, usable_cores()
    if engine.kind == "inline":
        return 1
    if engine.kind == "superlink":
        return min(scenario.clients.count, cores)
    return cores if engine.workers == "auto" else min(engine.workers, cores)


def trial(scenario: Scenario, federation: Federation, enrolment: Enrolment, arrays: Arrays, tasks: Mapping[int, Task]) -> Trial:
    """Time one client of each kind, and an evaluation on a part of the test set."""
    identify_process()
    paces: dict[int, Pace] = {}
    with threads(scenario.engine.threads):
        for alike in _alike(enrolment, tasks):
            # The one with the middle number of samples.
            chosen = sorted(alike, key=lambda client: tasks[client].samples)[len(alike) // 2]
            pace = _pace(scenario, federation, enrolment, arrays, tasks[chosen])
            paces |= dict.fromkeys(alike, pace)
        test_s = _test_s(scenario, federation, arrays)
    return Trial(paces, test_s, workers_of(scenario))


def _alike(enrolment: Enrolment, tasks: Mapping[int, Task]) -> list[list[int]]:
    """Return the clients of each kind: one method, one plan."""
    kinds: dict[tuple[object, ...], list[int]] = {}
    for client, task in tasks.items():
        method = enrolment.groups[enrolment.group_of[client]].method
        key = (method.model_dump_json(), *task.plan.bits.values(), task.plan.batch, task.plan.scheme)
        kinds.setdefault(key, []).append(client)
    return list(kinds.values())


def _pace(scenario: Scenario, federation: Federation, enrolment: Enrolment, arrays: Arrays, task: Task) -> Pace:
    """Time visits with one and with a few batches; their difference is training."""
    told = task.instructions.model_copy(update={"epochs": 1})

    def visited(kind: Literal["train", "evaluate"], samples: int) -> tuple[float, Outcome]:
        rows = list(federation.rows)
        rows[task.client] = rows[task.client][:samples]
        workshop = replace(enrolment.workshop, federation=replace(federation, rows=tuple(rows)), faults=Faults())
        shortened = replace(task, kind=kind, samples=samples, instructions=told)
        total = ExactSum() if scenario.strategy.linear and kind == "train" else None
        player = workshop.open()
        return _timed(lambda: player.visit(arrays, shortened, total))

    few, more = (min(batches * task.plan.batch, task.samples) for batches in (FEW, MORE))
    short_s, outcome = visited("train", few)
    if more > few:
        long_s, outcome = visited("train", more)
        sample_s = max(long_s - short_s, 0.0) / (more - few)
    else:
        sample_s = short_s / few
    evaluation_s, _ = visited("evaluate", task.samples)
    problem = "" if outcome.status == "ok" else outcome.reason
    return Pace(max(short_s - few * sample_s, 0.0), sample_s, evaluation_s, problem)


def _timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """Return the shortest of a few times, which other processes disturb least, after one to warm up; and the result."""
    result = action()
    times: list[float] = []
    while len(times) < REPETITIONS and sum(times) < ENOUGH_S:
        began = time.perf_counter()
        result = action()
        times.append(time.perf_counter() - began)
    return min(times), result


def _test_s(scenario: Scenario, federation: Federation, arrays: Arrays) -> float:
    """Return the seconds of one evaluation of the global model."""
    test = federation.test
    some = replace(test, inputs=test.inputs[:TEST_SAMPLES], labels=test.labels[:TEST_SAMPLES])
    evaluator = Evaluator(
        scenario.model, some, federation.classes, scenario.engine.threads, channels_last=scenario.engine.channels_last
    )
    part_s, _ = _timed(lambda: evaluator.score(arrays))
    return part_s * len(test.labels) / len(some.labels)


def _evaluations(rounds: int, every: int | None) -> int:
    """Return after how many rounds something is evaluated that always is after the last one."""
    return 1 if every is None else -(-rounds // every)
