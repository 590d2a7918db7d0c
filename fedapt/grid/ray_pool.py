"""Ray actors: data and model go through the object store once, clients are handed out in chunks, one thread a worker.

A worker that dies or hangs is replaced and its chunk runs again; the same (round, client) redraws the same numbers, so the
result is the same bits. The client that was at work is charged with a failed attempt, and after `max_attempts` of them it fails
for the round.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayTaskError

from fedapt.errors import RunFailed, SetupError
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import identify_process
from fedapt.grid.visit import App, Arrays, Outcome, Task, visit

CHUNKS_A_WORKER = 4
LARGEST_CHUNK = 16
POLL_S = 0.5


class _Worker:
    """An actor that plays clients."""

    def __init__(self, workshop: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        identify_process()
        self._app: App = workshop.open()

    def ready(self) -> None:
        """Return when the worker can work."""

    def visit_all(self, arrays: Arrays, tasks: Sequence[Task], summed: bool) -> Iterator[Outcome | ExactSum]:
        """Yield an outcome for each task as it is done, and at last their sum if the updates are summed."""
        total = ExactSum() if summed else None
        for task in tasks:
            yield visit(arrays, task, self._app, total)
        if total is not None:
            yield total


@dataclass
class _Job:
    """A chunk of tasks at a worker; nothing of it counts until all of it has arrived."""

    worker: Any
    tasks: list[Task]
    progress_s: float
    outcomes: list[Outcome] = field(default_factory=list)
    total: ExactSum | None = None


class RayPool:
    """The `ray` transport. `workshop.open()` is called once in every worker and returns the app that plays the clients."""

    def __init__(
        self,
        workshop: Any,
        workers: int,
        *,
        threads: int = 1,
        chunk: int | None = None,
        max_attempts: int = 3,
        task_timeout_s: float = 600.0,
    ) -> None:
        self._threads, self._chunk, self._max_attempts, self._task_timeout_s = threads, chunk, max_attempts, task_timeout_s
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            start_ray(workers)
        self._workshop = ray.put(workshop)
        self._idle = [self._hire() for _ in range(workers)]
        self._workers = workers
        try:
            ray.get([worker.ready.remote() for worker in self._idle])
        except (RayActorError, RayTaskError) as error:
            self.close()
            raise SetupError(f"the workers could not start: {_cause(error)}") from None

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield at least one outcome for each task as chunks finish; with `total`, updates are added to it and not returned."""
        model = ray.put(dict(arrays))
        size = self._chunk or min(LARGEST_CHUNK, -(-len(tasks) // (self._workers * CHUNKS_A_WORKER)))
        waiting = deque(list(tasks[first : first + size]) for first in range(0, len(tasks), size))
        attempts = Counter[int]()
        running: dict[Any, _Job] = {}
        while waiting or running:
            while waiting and self._idle:
                worker, chunk = self._idle.pop(), waiting.popleft()
                stream = worker.visit_all.options(num_returns="streaming").remote(model, chunk, total is not None)
                running[stream] = _Job(worker, chunk, time.monotonic())
            ready, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for stream in ready:
                lost = self._advance(stream, running[stream])
                if lost is None:
                    continue
                job = running.pop(stream)
                if not lost:
                    self._idle.append(job.worker)
                    yield from self._settle(job, attempts, total)
                else:
                    yield from self._retry(job, lost, attempts, waiting)
            for stream, job in list(running.items()):
                if time.monotonic() - job.progress_s > self._task_timeout_s:
                    ray.kill(job.worker)
                    del running[stream]
                    yield from self._retry(job, f"no progress for {self._task_timeout_s:g} s, worker killed", attempts, waiting)

    def _advance(self, stream: Any, job: _Job) -> str | None:
        """Take one item from a job: None if there are more to come, "" if it is complete, or why its worker was lost."""
        try:
            item = ray.get(next(stream))
        except StopIteration:
            return ""
        except (ActorDiedError, ActorUnavailableError, RayActorError) as error:
            return f"its worker died: {_cause(error)}"
        except RayTaskError as error:
            raise RunFailed(f"a worker failed outside of any client's code: {_cause(error)}") from error
        job.progress_s = time.monotonic()
        if isinstance(item, ExactSum):
            job.total = item
        else:
            job.outcomes.append(item)
        return None

    def _settle(self, job: _Job, attempts: Counter[int], total: ExactSum | None) -> Iterator[Outcome]:
        if total is not None and job.total is not None:
            total.merge(job.total)
        for outcome in job.outcomes:
            yield replace(outcome, attempt=attempts[outcome.client] + 1)

    def _retry(self, job: _Job, reason: str, attempts: Counter[int], waiting: deque[list[Task]]) -> Iterator[Outcome]:
        """Hire a new worker and run the chunk again, without the client that was at work if it has used up its attempts."""
        blamed = job.tasks[min(len(job.outcomes), len(job.tasks) - 1)]
        attempts[blamed.client] += 1
        yield Outcome(blamed.client, "failed", reason, attempt=attempts[blamed.client])
        given_up = attempts[blamed.client] >= self._max_attempts
        remaining = [task for task in job.tasks if not (given_up and task is blamed)]
        if remaining:
            waiting.appendleft(remaining)
        self._idle.append(self._hire())

    def _hire(self) -> Any:
        actor: Callable[..., Any] = ray.remote(_Worker).options(num_cpus=1, max_restarts=0).remote
        return actor(self._workshop, self._threads)

    def close(self) -> None:
        """Stop the workers, and Ray if this pool started it."""
        if self._owns_ray:
            ray.shutdown()
        else:
            for worker in self._idle:
                ray.kill(worker)


def start_ray(workers: int) -> None:
    """Start Ray on this machine, without its dashboard, its usage report and its chatter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    # Ray would print a paragraph for each dead worker, even so; the ledger and the log have a sentence.
    ray._private.worker._worker_logs_enabled = False


def _cause(error: Exception) -> str:
    """Return the line of a Ray error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "exit detail" in line or "Error:" in line or "Exception:" in line]
    return (telling or lines or [type(error).__name__])[-1][:300]
