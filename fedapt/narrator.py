"""What a run says while it goes: to the terminal in short, to run.log with every traceback."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from fedapt.enrolment import Enrolment
from fedapt.grid.visit import Outcome
from fedapt.pretrained import Origin
from fedapt.record.files import explained
from fedapt.report.figures import pretraining_words
from fedapt.report.terminal import Display
from fedapt.scenario import Scenario


class _LogFile(logging.FileHandler):
    """A log that no full disk makes louder than the run: what keeps a round from being committed is said by the commit."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


class Narrator:
    """Tells one run; a context manager that owns the log file."""

    def __init__(self, display: Display, log: Path) -> None:
        self.display = display
        with explained(log):
            self._handler = _LogFile(log, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._log = logging.Logger("fedapt.run", logging.INFO)
        self._log.addHandler(self._handler)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            self._log.error("the run ended early: %s\n%s", error, "".join(traceback.format_exception(error)))
        with suppress(OSError):
            self._handler.close()

    def begin(self, path: Path, scenario: Scenario) -> None:
        """Print the run folder and what will be run."""
        clients, data = scenario.clients, scenario.data
        about = [
            f"{clients.count} clients, {clients.per_round} a round",
            f"data {Path(data.source).name}, {data.partition.kind}",
            f"model {scenario.model.kind}",
            f"precision {clients.method.precision.kind}",
            f"strategy {scenario.strategy.kind}",
            f"engine {scenario.engine.kind}",
            f"seed {scenario.seed}",
        ]
        self.display.start(path, scenario.rounds, about)

    def enrolled(self, enrolment: Enrolment) -> None:
        """Name the layers that no policy can quantise, and say why clients cannot take part, one sentence for each reason."""
        shapes = next(iter(enrolment.participants.values())).cost.shapes
        if names := [shape.name for shape in shapes if shape.kind == "float"]:
            self.display.message(f"Kept in float, and charged as such: {', '.join(names)}")
        for row in enrolment.refused:
            self._log.warning("client %d refused: %s: %s", row.client, row.group, row.reason)
        reasons = Counter(f"{row.group}: {row.reason}" for row in enrolment.refused)
        for reason, count in reasons.items():
            self.display.warning(f"{count} of {len(enrolment.group_of)} clients cannot take part: {reason}")

    def pretrained(self, origin: Origin) -> None:
        """Say what the model begins with."""
        words = pretraining_words(origin)
        self.display.pretrained(words)
        self._log.info("%s", words)

    def resumed(self, done: int, rounds: int, problem: str) -> None:
        """Say after which round a run goes on, and why not after a later one."""
        if problem:
            self.warning(f"going back to the newest whole round: {problem}")
        self.display.message(f"Resuming after {done} of {rounds} rounds")
        self._log.info("resumed after %d of %d rounds", done, rounds)

    def warning(self, text: str) -> None:
        """Print a sentence that the user should not miss, and log it."""
        self.display.warning(text)
        self._log.warning("%s", text)

    def outcome(self, outcome: Outcome) -> None:
        """Move the progress bar; write what went wrong into the log, with the client's traceback."""
        self.display.client_done()
        if outcome.status != "ok":
            what = f"client {outcome.client}, attempt {outcome.attempt}, {outcome.status}: {outcome.reason}"
            self._log.warning("%s%s", what, f"\n{outcome.log}" if outcome.log else "")
