"""The process that plays clients for Ray, and what it tells the driver while it does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from fedapt.clients.faulty import Crash, Hang
from fedapt.grid.allocator import keep_memory
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import identify_process
from fedapt.grid.groups import play
from fedapt.grid.visit import Arrays, Outcome, Player, Task

# An item of a stream costs the worker and the driver .1 ms each, which is half of what a small client takes.
TELL_S = 0.05
WIDTH = 8


class Told(NamedTuple):
    """What a worker has done since it last told. The last of a chunk has the sum, if updates are summed, and the whole time."""

    outcomes: list[Outcome]
    total: ExactSum | None = None
    busy_s: float | None = None


class Progress:
    """How many tasks of its chunk a worker has done, in an open file: that tells who was at work when the process died."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, done: int) -> None:
        """Write the number down, where the death of this process does not reach it."""
        os.pwrite(self._handle, done.to_bytes(WIDTH, "little"), 0)

    def read(self) -> int:
        """Return the number that was written last."""
        return int.from_bytes(os.pread(self._handle, WIDTH, 0), "little")

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


class Worker:
    """An actor that plays clients. progress: the driver's file, which a worker on another machine does not find."""

    def __init__(self, workshop: Any, threads: int, progress: str) -> None:
        keep_memory()
        torch.set_num_threads(threads)
        identify_process()
        self._player: Player = workshop.open()
        self._progress = Progress(os.open(progress, os.O_RDWR)) if os.path.exists(progress) else None
        self._model: tuple[Any, Arrays] | None = None

    def ready(self) -> None:
        """Return when the worker can work."""

    def visit_all(self, model: Sequence[Any], groups: Sequence[Sequence[Task]], summed: bool) -> Iterator[Told]:
        """Play the tasks, and tell of them in groups; one by one, if nothing else tells who was at work when the worker dies.

        model: the reference to the arrays, in a sequence, so that they are taken from the object store once a round.
        """
        began_s = told_s = time.monotonic()
        arrays = self._arrays(model[0])
        total = ExactSum() if summed else None
        done: list[Outcome] = []
        number, last = 0, sum(map(len, groups))
        for group in groups:
            try:
                done += play(self._player, arrays, group, total)
            except Crash:
                os.kill(os.getpid(), signal.SIGKILL)
            except Hang:
                while True:
                    time.sleep(3600)
            number += len(group)
            if self._progress:
                self._progress.write(number)
            if number < last and (self._progress is None or time.monotonic() - told_s >= TELL_S):
                yield Told(done)
                done, told_s = [], time.monotonic()
        yield Told(done, total, time.monotonic() - began_s)

    def _arrays(self, reference: Any) -> Arrays:
        import ray

        if self._model is None or self._model[0] != reference:
            self._model = None
            self._model = (reference, ray.get(reference))
        return self._model[1]
