"""Tracking a run that exists: `fedapt track`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fedapt.errors import FedaptError, SetupError
from fedapt.results import read_run
from fedapt.tracking.figures import Meter, final_figures, statuses_by_round, subject_of
from fedapt.tracking.guarded import in_short, opened


def track(path: Path, name: str) -> str:
    """Tell a tracker all of a run, and return where it can be looked at; raises SetupError if the tracker fails."""
    run = read_run(path)
    subject, meter, statuses = subject_of(path), Meter(), statuses_by_round(run.ledger_parts)
    try:
        tracker = opened(name)
        where = tracker.start(subject)
        for row in run.rounds.to_dict("records"):
            number = int(row["round"])
            tracker.log(number, meter.figures(row, statuses.get(number, {})), float(row["clock_s"]))
        whole = run.summary["rounds"] == subject.parameters.get("rounds")
        tracker.finish(final_figures(run.summary), len(run.rounds) - 1, "finished" if whole else "stopped")
    except (Exception, SystemExit) as error:
        raise SetupError(f"{name} could not track {path}: {in_short(error)}") from error
    return where


def track_each(path: Path, names: Sequence[str], warn: Callable[[str], None]) -> None:
    """Tell trackers all of a run; what fails is a warning."""
    for name in names:
        try:
            track(path, name)
        except FedaptError as error:
            warn(str(error))


def usable(names: Sequence[str], warn: Callable[[str], None]) -> list[str]:
    """Return the trackers that are installed; the others are a warning."""
    found: list[str] = []
    for name in names:
        try:
            opened(name)
        except (Exception, SystemExit) as error:
            warn(f"{name} tracks nothing: {in_short(error)}")
        else:
            found.append(name)
    return found
