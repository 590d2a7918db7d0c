"""Ray actors: data and model go through the object store once, clients are handed out in chunks, one thread a worker.

A worker that dies, hangs or is lost with its node is replaced and its chunk runs again, here or there; the same (round, client)
redraws the same numbers, so the result is the same bits. The client that was at work is charged with a failed attempt, and after
`max_attempts` of them it fails for the round. A replacement gets work when it is ready; until then the others do what is left.
Until the first worker is ready, which takes Ray seconds, this process plays clients itself if it was given the means.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from fedapt.errors import RunFailed, SetupError
from fedapt.grid.chunks import Chunks, Pace
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.groups import Grouping, alone, play
from fedapt.grid.ray_session import RaySession, cause
from fedapt.grid.ray_worker import Progress, Told, Worker
from fedapt.grid.visit import Arrays, Outcome, Player, Task

POLL_S = 0.5


class _Hand(NamedTuple):
    """A worker, and the file that says how far it is."""

    worker: Any
    progress: Progress


@dataclass
class _Job:
    """A chunk of tasks at a worker; nothing of it counts until all of it has arrived."""

    hand: _Hand
    groups: list[list[Task]]
    began_s: float
    progress_s: float
    outcomes: list[Outcome] = field(default_factory=list)
    total: ExactSum | None = None

    @property
    def tasks(self) -> list[Task]:
        """All tasks of the chunk, in the order in which they are done."""
        return [task for group in self.groups for task in group]


class RayPool:
    """The `ray` transport. `workshop.open()` is called once in every worker and returns the app that plays the clients.

    session: the Ray that it works on, for its owner to close; without one it uses a Ray that is running, or else starts one.
    grouping: which clients are played together.
    meanwhile: called when clients are at work and there is nothing to do but wait for them, and before this process plays one.
    player: plays clients in this process until the first worker is ready, for clients that cannot crash or hang; None: all wait.
    grace_s: how long to wait when there is no worker.
    """

    def __init__(
        self,
        workshop: Any,
        workers: int | None,
        *,
        threads: int = 1,
        chunk: int | None = None,
        max_attempts: int = 3,
        task_timeout_s: float = 600.0,
        grace_s: float = 120.0,
        session: RaySession | None = None,
        player: Player | None = None,
        grouping: Grouping = alone,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self._grouping, self._meanwhile = grouping, meanwhile
        self._workshop, self._threads, self._pace, self._player = workshop, threads, Pace(chunk), player
        self._max_attempts, self._task_timeout_s, self._grace_s = max_attempts, task_timeout_s, grace_s
        self._session, self._own_session = session or RaySession(workers), session is None
        self._folder = tempfile.TemporaryDirectory(prefix="fedapt-ray-")
        self._idle: list[_Hand] = []
        self._arriving: dict[Any, _Hand] = {}
        self._busy: dict[Any, _Job] = {}
        self._last_loss = f"Ray had no free CPU for one in {grace_s:g} s"
        self._opened_s, self._failure = 0.0, ""
        self._opening = threading.Thread(target=self._open, name="workers start", daemon=True)
        self._opening.start()
        try:
            while player is None and not self._staffed(POLL_S):
                continue
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Hire the workers once Ray is there; until this thread has ended, nothing else touches them."""
        try:
            self._workers = self._session.wait()
            self._shared = ray.put(self._workshop)
            for _ in range(self._workers):
                self._hire()
        except SetupError as error:
            self._failure = str(error)
        except Exception as error:  # for whoever waits
            self._failure = f"the workers could not start: {cause(error)}"
        self._opened_s = time.monotonic()

    def _staffed(self, wait_s: float) -> bool:
        """Wait so long for the first worker and return whether there is one; raises SetupError if none will come."""
        self._opening.join(wait_s)
        if self._opening.is_alive():
            return False
        if self._failure:
            raise SetupError(self._failure)
        self._welcome(ray.wait(list(self._arriving), num_returns=1, timeout=wait_s)[0])
        if not self._idle and (not self._arriving or time.monotonic() - self._opened_s > self._grace_s):
            raise SetupError(f"the workers could not start: {self._last_loss}")
        return bool(self._idle)

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield at least one outcome for each task as chunks finish; with `total`, updates are added to it and not returned.

        Raises RunFailed if no worker is left, or Ray itself fails; SetupError if the workers cannot start.
        """
        chunks = Chunks(self._grouping(tasks), self._pace)
        try:
            while self._player is not None and chunks:
                if self._staffed(0):
                    self._player = None
                else:
                    yield from self._play_here(self._player, arrays, chunks.take_one(), total)
            if chunks:
                yield from self._exchange([ray.put(dict(arrays))], chunks, total)
        except RayError as error:
            raise RunFailed(f"Ray failed: {cause(error)}; the rounds before are kept") from error

    def _play_here(self, player: Player, arrays: Arrays, group: list[Task], total: ExactSum | None) -> Iterator[Outcome]:
        self._meanwhile()
        began_s = time.monotonic()
        outcomes = list(play(player, arrays, group, total))
        lasted_s = time.monotonic() - began_s
        self._pace.learn(group, lasted_s, lasted_s)
        yield from outcomes

    def _exchange(self, model: list[Any], chunks: Chunks, total: ExactSum | None) -> Iterator[Outcome]:
        attempts = Counter[int]()
        alive_s = time.monotonic()
        while chunks or self._busy:
            while chunks and self._idle:
                now_s = time.monotonic()
                busy = sum(self._pace.left(job.tasks, now_s - job.began_s) for job in self._busy.values())
                self._hand_out(chunks.take(self._workers, busy), model, attempts, total is not None)
            alive_s = time.monotonic() if self._busy else alive_s
            self._meanwhile()
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
                    yield self._retry(job, lost, attempts, chunks)
                else:
                    self._idle.append(job.hand)
                    yield from self._settle(job, total)
            for stream, job in list(self._busy.items()):
                if time.monotonic() - job.progress_s > self._task_timeout_s:
                    del self._busy[stream]
                    yield self._retry(job, f"no progress for {self._task_timeout_s:g} s, worker killed", attempts, chunks)

    def _hand_out(self, chunk: list[list[Task]], model: list[Any], attempts: Counter[int], summed: bool) -> None:
        hand = self._idle.pop()
        hand.progress.write(0)
        numbered = [[replace(task, attempt=attempts[task.client] + 1) for task in group] for group in chunk]
        stream = hand.worker.visit_all.options(num_returns="streaming").remote(model, numbered, summed)
        self._busy[stream] = _Job(hand, numbered, time.monotonic(), time.monotonic())

    def _advance(self, stream: Any, job: _Job) -> str | None:
        """Take one item from a job: None if there are more to come, "" if it is complete, or why its worker was lost."""
        try:
            told: Told = ray.get(next(stream))
        except RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                return "its worker ran out of memory"
            raise RunFailed(f"a worker failed outside of any client's code: {cause(error)}") from error
        except RayError as error:
            return f"its worker died: {cause(error)}"
        job.progress_s = time.monotonic()
        job.outcomes += told.outcomes
        if told.busy_s is None:
            return None
        job.total = told.total
        self._pace.learn(job.tasks, told.busy_s, job.progress_s - job.began_s)
        return ""

    def _settle(self, job: _Job, total: ExactSum | None) -> Iterator[Outcome]:
        if total is not None and job.total is not None:
            total.merge(job.total)
        for task, outcome in zip(job.tasks, job.outcomes, strict=True):
            yield replace(outcome, attempt=task.attempt)

    def _retry(self, job: _Job, reason: str, attempts: Counter[int], chunks: Chunks) -> Outcome:
        """Replace the worker and put its chunk first in line, without the client at work if that has used up its attempts."""
        self._last_loss = reason
        done = max(len(job.outcomes), job.hand.progress.read())
        blamed = job.tasks[min(done, len(job.tasks) - 1)]
        attempts[blamed.client] += 1
        given_up = attempts[blamed.client] >= self._max_attempts
        left = [[task for task in group if not (given_up and task is blamed)] for group in job.groups]
        chunks.put_back([group for group in left if group])
        ray.kill(job.hand.worker)
        job.hand.progress.close()
        self._hire()
        return Outcome(blamed.client, "failed", reason, attempt=blamed.attempt)

    def _hire(self) -> None:
        """Ask Ray for a worker; it is idle once `_welcome` has seen it."""
        handle, path = tempfile.mkstemp(dir=self._folder.name)
        spread = "SPREAD" if self._session.spread else "DEFAULT"
        actor: Callable[..., Any] = ray.remote(Worker).options(num_cpus=1, max_restarts=0, scheduling_strategy=spread).remote
        worker = actor(self._shared, self._threads, path)
        self._arriving[worker.ready.remote()] = _Hand(worker, Progress(handle))

    def _welcome(self, arrived: Iterable[Any]) -> None:
        """Take workers that are ready into service; one that could not start is not replaced, for it would not start again."""
        for ref in list(arrived):
            hand = self._arriving.pop(ref)
            try:
                ray.get(ref)
            except RayError as error:
                self._last_loss = cause(error)
                hand.progress.close()
            else:
                self._idle.append(hand)

    def close(self) -> None:
        """Stop the workers; a Ray that this pool started has ended then, that of a session begins to end."""
        self._session.end(self._dismiss)
        if self._own_session:
            self._session.close()

    def _dismiss(self) -> None:
        self._opening.join()
        for hand in [*self._idle, *self._arriving.values(), *(job.hand for job in self._busy.values())]:
            ray.kill(hand.worker)
            hand.progress.close()
        self._idle, self._arriving, self._busy = [], {}, {}
        self._folder.cleanup()
