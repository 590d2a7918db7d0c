"""Workshops in which things go wrong, for the transports' tests."""

import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fedapt.clients.app import payload
from fedapt.clients.instructions import read_instructions
from fedapt.grid.visit import ByMessage
from fedapt.quant.wire import from_bytes

MIB = 2**20


class TwoArguments(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


class NotShown(Exception):
    """An exception that cannot say what it is."""

    def __str__(self):
        raise ValueError("no words")


@dataclass
class Accident:
    """A workshop whose `client` does something in its first `times` visits of `round`, or of all; visits are counted in files."""

    workshop: Any
    what: str
    client: int
    times: int
    folder: Path
    round: int | None = None

    def open(self):
        inner = self.workshop.open().app
        if self.what.startswith("allocate"):
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + 512 * MIB, resource.RLIM_INFINITY))

        def app(message, context):
            told = read_instructions(from_bytes(payload(message), reader="client")[1])
            if told.client != self.client or self.round not in (None, told.round):
                return inner(message, context)
            visits = self.folder / f"{context.node_id}"
            with visits.open("a") as file:
                file.write("x")
            happens = visits.stat().st_size <= self.times
            if happens:
                self._happen()
            reply = inner(message, context)
            if happens and self.what == "kill after":
                os.kill(os.getpid(), signal.SIGKILL)
            return reply

        return ByMessage(app)

    def _happen(self):
        match self.what:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                raise SystemExit("enough")
            case "hang":
                time.sleep(60)
            case "raise":
                raise TwoArguments("battery", "empty")
            case "raise without words":
                raise NotShown
            case "allocate bytes":
                bytearray(4096 * MIB)
            case "allocate tensors":
                torch.zeros(1024 * MIB)


@dataclass
class OpensOnce:
    """A workshop that only `times` workers can open, counted in a file."""

    workshop: Any
    times: int
    folder: Path

    def open(self):
        with (self.folder / "opened").open("a") as file:
            file.write("x")
        if (self.folder / "opened").stat().st_size > self.times:
            raise RuntimeError("no tools left")
        return self.workshop.open()


@dataclass
class Slow:
    """A workshop in which every visit takes a while, and says on which node of Ray it is."""

    workshop: Any
    folder: Path
    seconds: float = 0.7

    def open(self):
        import ray

        inner = self.workshop.open().app
        node = ray.get_runtime_context().get_node_id()

        def app(message, context):
            (self.folder / node).touch()
            time.sleep(self.seconds)
            return inner(message, context)

        return ByMessage(app)
