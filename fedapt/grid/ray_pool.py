"""Ray actors: data and model go through the object store once, clients are handed out in chunks, one thread a worker.

A worker that dies, hangs or is lost with its node is replaced and its chunk runs again, here or there; the same (round, client)
redraws the same numbers, so the result is the same bits. The client that was at work is charged with a failed attempt, and after
`max_attempts` of them it fails for the round. A replacement gets work when it is ready; until then the others do what is left.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from fedapt.clients.faulty import Crash, Hang
from fedapt.errors import RunFailed, SetupError
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import identify_process
from fedapt.grid.visit import Arrays, Outcome, Player, Task

CHUNKS_A_WORKER = 4
LARGEST_CHUNK = 16
POLL_S = 0.5
DETAIL = "Worker exit detail: "
GUESSES = re.compile(r" Some common causes|; Object store memory usage")
NAMES = re.compile(r"(, ID:)? ?\b[0-9a-f]{20,}\b")
TELLING = (DETAIL, "Error:", "Exception:", "low on memory", "The node")


class _Worker:
    """An actor that plays clients."""

    def __init__(self, workshop: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        identify_process()
        self._player: Player = workshop.open()

    def ready(self) -> None:
        """Return when the worker can work."""

    def visit_all(self, arrays: Arrays, tasks: Sequence[Task], summed: bool) -> Iterator[Outcome | ExactSum]:
        """Yield an outcome for each task as it is done, and at last their sum if the updates are summed."""
        total = ExactSum() if summed else None
        for task in tasks:
            try:
                yield self._player.visit(arrays, task, total)
            except Crash:
                os.kill(os.getpid(), signal.SIGKILL)
            except Hang:
                while True:
                    time.sleep(3600)
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
    """The `ray` transport. `workshop.open()` is called once in every worker and returns the app that plays the clients.

    It uses a Ray that is running, and leaves it running, or else starts one. grace_s: how long to wait when there is no worker.
    """

    def __init__(
        self,
        workshop: Any,
        workers: int,
        *,
        threads: int = 1,
        chunk: int | None = None,
        max_attempts: int = 3,
        task_timeout_s: float = 600.0,
        grace_s: float = 120.0,
    ) -> None:
        self._workers, self._threads, self._chunk = workers, threads, chunk
        self._max_attempts, self._task_timeout_s, self._grace_s = max_attempts, task_timeout_s, grace_s
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            start_ray(workers)
        self._workshop = ray.put(workshop)
        self._idle: list[Any] = []
        self._arriving: dict[Any, Any] = {}
        self._busy: dict[Any, _Job] = {}
        self._last_loss = f"Ray had no free CPU for one in {grace_s:g} s"
        for _ in range(workers):
            self._hire()
        self._welcome(ray.wait(list(self._arriving), num_returns=1, timeout=grace_s)[0])
        if not self._idle:
            self.close()
            raise SetupError(f"the workers could not start: {self._last_loss}")

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield at least one outcome for each task as chunks finish; with `total`, updates are added to it and not returned.

        Raises RunFailed if no worker is left, or Ray itself fails.
        """
        try:
            yield from self._exchange(ray.put(dict(arrays)), tasks, total)
        except RayError as error:
            raise RunFailed(f"Ray failed: {cause(error)}; the rounds before are kept") from error

    def _exchange(self, model: Any, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        size = self._chunk or min(LARGEST_CHUNK, -(-len(tasks) // (self._workers * CHUNKS_A_WORKER)))
        waiting = deque(list(tasks[first : first + size]) for first in range(0, len(tasks), size))
        attempts = Counter[int]()
        alive_s = time.monotonic()
        while waiting or self._busy:
            while waiting and self._idle:
                self._hand_out(waiting.popleft(), model, attempts, total is not None)
            alive_s = time.monotonic() if self._busy else alive_s
            awaited = [*self._busy, *self._arriving]
            if not awaited or time.monotonic() - alive_s > self._grace_s:
                raise RunFailed(f"no worker is left, and none came in {self._grace_s:g} s: {self._last_loss}")
            ready, _ = ray.wait(awaited, num_returns=1, timeout=POLL_S)
            self._welcome(ref for ref in ready if ref in self._arriving)
            for stream in [ref for ref in ready if ref in self._busy]:
                lost = self._advance(stream, self._busy[stream])
                if lost is None:
                    continue
                job = self._busy.pop(stream)
                if lost:
                    yield self._retry(job, lost, attempts, waiting)
                else:
                    self._idle.append(job.worker)
                    yield from self._settle(job, total)
            for stream, job in list(self._busy.items()):
                if time.monotonic() - job.progress_s > self._task_timeout_s:
                    del self._busy[stream]
                    yield self._retry(job, f"no progress for {self._task_timeout_s:g} s, worker killed", attempts, waiting)

    def _hand_out(self, chunk: list[Task], model: Any, attempts: Counter[int], summed: bool) -> None:
        worker = self._idle.pop()
        numbered = [replace(task, attempt=attempts[task.client] + 1) for task in chunk]
        stream = worker.visit_all.options(num_returns="streaming").remote(model, numbered, summed)
        self._busy[stream] = _Job(worker, numbered, time.monotonic())

    def _advance(self, stream: Any, job: _Job) -> str | None:
        """Take one item from a job: None if there are more to come, "" if it is complete, or why its worker was lost."""
        try:
            item = ray.get(next(stream))
        except StopIteration:
            return ""
        except RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                return "its worker ran out of memory"
            raise RunFailed(f"a worker failed outside of any client's code: {cause(error)}") from error
        except RayError as error:
            return f"its worker died: {cause(error)}"
        job.progress_s = time.monotonic()
        if isinstance(item, ExactSum):
            job.total = item
        else:
            job.outcomes.append(item)
        return None

    def _settle(self, job: _Job, total: ExactSum | None) -> Iterator[Outcome]:
        if total is not None and job.total is not None:
            total.merge(job.total)
        for task, outcome in zip(job.tasks, job.outcomes, strict=True):
            yield replace(outcome, attempt=task.attempt)

    def _retry(self, job: _Job, reason: str, attempts: Counter[int], waiting: deque[list[Task]]) -> Outcome:
        """Replace the worker and put its chunk first in line, without the client at work if that has used up its attempts."""
        self._last_loss = reason
        blamed = job.tasks[min(len(job.outcomes), len(job.tasks) - 1)]
        attempts[blamed.client] += 1
        given_up = attempts[blamed.client] >= self._max_attempts
        remaining = [task for task in job.tasks if not (given_up and task is blamed)]
        if remaining:
            waiting.appendleft(remaining)
        ray.kill(job.worker)
        self._hire()
        return Outcome(blamed.client, "failed", reason, attempt=blamed.attempt)

    def _hire(self) -> None:
        """Ask Ray for a worker; it is idle once `_welcome` has seen it."""
        actor: Callable[..., Any] = ray.remote(_Worker).options(num_cpus=1, max_restarts=0).remote
        worker = actor(self._workshop, self._threads)
        self._arriving[worker.ready.remote()] = worker

    def _welcome(self, arrived: Iterable[Any]) -> None:
        """Take workers that are ready into service; one that could not start is not replaced, for it would not start again."""
        for ref in list(arrived):
            worker = self._arriving.pop(ref)
            try:
                ray.get(ref)
            except RayError as error:
                self._last_loss = cause(error)
            else:
                self._idle.append(worker)

    def close(self) -> None:
        """Stop the workers, and Ray if this pool started it."""
        if self._owns_ray:
            ray.shutdown()
            return
        for worker in [*self._idle, *self._arriving.values(), *(job.worker for job in self._busy.values())]:
            ray.kill(worker)


def start_ray(workers: int) -> None:
    """Start Ray on this machine, without its dashboard, its usage report and its chatter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    # Ray would print a paragraph for each dead worker, even so; the ledger and the log have a sentence.
    ray._private.worker._worker_logs_enabled = False


def cause(error: Exception) -> str:
    """Return what a Ray error says of its cause, without the names and guesses that would make equal causes look different."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(words in line for words in TELLING)]
    line = (telling or lines or [type(error).__name__])[-1]
    line = line.partition(DETAIL)[2] or line
    return NAMES.sub("", GUESSES.split(line)[0])[:300]
