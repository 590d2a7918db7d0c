"""The contract of a tracker: something that shows runs besides fedapt's own report.

A tracker imports its library when it is made, so that the table of trackers costs nothing. It may raise anything: whoever calls
it turns that into a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Plain = bool | int | float | str
Ending = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Subject:
    """A run to be tracked. identity: the same whenever this run is tracked; began_s: when it did, in seconds since 1970."""

    path: Path
    name: str
    identity: str
    began_s: float
    parameters: Mapping[str, Plain]
    tags: Mapping[str, str]


class Tracker(Protocol):
    """Takes one run. Figures have their units in their names, and a slash where they form a group."""

    def start(self, subject: Subject) -> str:
        """Begin with a run, which may have been tracked before; return where it can be looked at."""

    def log(self, step: int, figures: Mapping[str, float], clock_s: float) -> None:
        """Take the figures of a round (from 0); clock_s: simulated time at its end. Rounds come in order, each once."""

    def finish(self, figures: Mapping[str, float], step: int, ending: Ending) -> None:
        """Take the figures of the whole run, as of its last round `step`, and close."""
