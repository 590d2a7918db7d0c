"""Many cells at once: each is played inline in a process that plays one cell after another, one Ray session for all.

Many small runs side by side are faster than few workers inside one run, which wait for the slowest at the end of each round.
A process that dies plays its cell once more; a cell that has cost two processes has failed.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError, RayTaskError

from fedapt.benchmark.cells import Ended, note_failure, play_cell
from fedapt.environment import usable_cores
from fedapt.errors import SetupError
from fedapt.grid.flower import identify_process
from fedapt.grid.ray_session import cause, start_ray
from fedapt.plugins import load_plugins
from fedapt.plugins.loading import given_plugins
from fedapt.stopping import Stopper

MOST_DEATHS = 2
POLL_S = 0.5


class Job(NamedTuple):
    """A cell to be played. text: its scenario."""

    name: str
    path: Path
    text: str


class _Player:
    """An actor that plays cells. core: the one it stays on, or none; command: what the user typed, for the runs' record."""

    def __init__(self, core: int | None, command: Sequence[str], plugins: tuple[list[str], list[str]]) -> None:
        identify_process()
        load_plugins(*plugins)
        sys.argv = list(command)
        # Threads of two processes that share cores wait for each other at every barrier.
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})

    def ready(self) -> None:
        """Return when the player can play."""

    def play(self, path: str, text: str) -> Ended:
        """Play a cell to its end."""
        return play_cell(Path(path), text, Stopper(), inline=True)


class Players:
    """Processes that play cells; a context manager that ends them, and Ray if it was started here."""

    def __init__(self, count: int, threads: int = 1) -> None:
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            start_ray(count)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        # Where there are fewer cores than players and threads, the system shares them out better.
        own_core = threads == 1 and count <= min(len(cores), usable_cores())
        self._cores: list[int | None] = list(cores[:count]) if own_core else [None] * count
        self._idle: list[tuple[Any, int | None]] = []
        self._busy: dict[Any, tuple[Any, int | None, Job]] = {}
        try:
            self._idle = [self._hire(core) for core in self._cores]
            ray.get([player.ready.remote() for player, _ in self._idle], timeout=120)
        except RayError as error:
            self.close()
            raise SetupError(f"the processes that play the cells could not start: {cause(error)}") from error

    def __enter__(self) -> Players:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def play(self, jobs: Sequence[Job], stopper: Stopper) -> Iterator[tuple[Job, Ended | None]]:
        """Play all jobs; yield each with None when it is begun, and with how it ended then."""
        waiting, deaths = deque(jobs), Counter[str]()
        while waiting or self._busy:
            while waiting and self._idle:
                job = waiting.popleft()
                player, core = self._idle.pop(0)
                self._busy[player.play.remote(str(job.path), job.text)] = (player, core, job)
                yield job, None
            # Ray does not bear an exception that a signal raises while it waits.
            with stopper.held():
                done, _ = ray.wait(list(self._busy), num_returns=1, timeout=POLL_S)
            for ref in done:
                player, core, job = self._busy.pop(ref)
                try:
                    ended = ray.get(ref)
                except RayTaskError as error:
                    ended = note_failure(job.path, Ended(1, f"playing it failed: {cause(error)}"))
                except RayError as error:
                    ray.kill(player)
                    player, core = self._hire(core)
                    deaths[job.name] += 1
                    if deaths[job.name] < MOST_DEATHS:
                        self._idle.append((player, core))
                        waiting.appendleft(job)
                        continue
                    sentence = f"its process died {MOST_DEATHS} times: {cause(error)}"
                    ended = note_failure(job.path, Ended(SetupError.exit_code, sentence))
                self._idle.append((player, core))
                yield job, ended

    def _hire(self, core: int | None) -> tuple[Any, int | None]:
        player = ray.remote(_Player).options(num_cpus=1, max_restarts=0).remote(core, sys.argv, given_plugins())
        return player, core

    def close(self) -> None:
        """End the processes, whatever they do; what their cells have committed stays."""
        for player in [*(player for player, _ in self._idle), *(player for player, _, _ in self._busy.values())]:
            ray.kill(player)
        self._idle, self._busy = [], {}
        if self._owns_ray:
            ray.shutdown()
