"""Trackers that may fail: a failure is one warning, after which that tracker hears no more of the run."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from fedapt.errors import SetupError
from fedapt.grid.reasons import reason_of
from fedapt.reading.explain import suggest
from fedapt.tracking import TRACKERS
from fedapt.tracking.tracker import Ending, Subject, Tracker

LONGEST_REASON = 300


class Trackers:
    """Several trackers of one run after another. warn: is told what has failed, message: where a run can be looked at."""

    def __init__(self, names: Sequence[str], warn: Callable[[str], None], message: Callable[[str], None]) -> None:
        self._names, self._warn, self._message = list(dict.fromkeys(names)), warn, message
        self._at_work: dict[str, Tracker] = {}

    def start(self, subject: Subject) -> None:
        """Begin with a run."""
        self._at_work = {}
        for name in self._names:
            with self._surviving(name):
                tracker = opened(name)
                where = tracker.start(subject)
                self._at_work[name] = tracker
                self._message(f"Tracked by {name}: {where}")

    def log(self, step: int, figures: Mapping[str, float], clock_s: float) -> None:
        """Tell all that still listen a round's figures."""
        for name, tracker in list(self._at_work.items()):
            with self._surviving(name):
                tracker.log(step, figures, clock_s)

    def finish(self, figures: Mapping[str, float], step: int, ending: Ending) -> None:
        """Tell all that still listen how the run has ended, and let go of them."""
        for name, tracker in list(self._at_work.items()):
            with self._surviving(name):
                tracker.finish(figures, step, ending)
        self._at_work = {}

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            self._at_work.pop(name, None)
            self._warn(f"{name} tracks this run no further: {in_short(error)}")


def in_short(error: BaseException) -> str:
    """Return what a library has raised as one line."""
    return textwrap.shorten(reason_of(error), LONGEST_REASON, placeholder=" ...")


def opened(name: str) -> Tracker:
    """Return a new tracker; raises SetupError if it is not installed."""
    try:
        return TRACKERS[name]()
    except ImportError as error:
        raise SetupError(f"it cannot be imported ({error}): pip install 'fedapt[{name}]'") from error


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for a tracker that does not exist."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"unknown tracker `{name}`; {suggest(name, TRACKERS)}")
