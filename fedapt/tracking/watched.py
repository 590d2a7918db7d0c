"""A run that is tracked while it goes on: what a Display is told, trackers are told too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from fedapt.cost.ledger import RoundRecord
from fedapt.errors import FedaptError
from fedapt.record.totals import Summary
from fedapt.report.terminal import Display
from fedapt.results import RunFolder
from fedapt.tracking.figures import Meter, final_figures, statuses_by_round, subject_of
from fedapt.tracking.guarded import Trackers
from fedapt.tracking.tracker import Ending


@contextmanager
def watched(display: Display, names: Sequence[str]) -> Iterator[Display]:
    """Return a display that passes everything on to `display`, and the rounds to trackers as well.

    It may show several runs, one after the other. With no names it is the display itself.
    """
    if not names:
        yield display
        return
    watcher = _Watcher(display, names)
    try:
        yield cast(Display, watcher)
    except BaseException:
        watcher.end("failed")
        raise
    watcher.end("stopped")


class _Watcher:
    """Takes every call that a Display takes; figures come from the run's folder, where a round is before it is shown."""

    def __init__(self, display: Display, names: Sequence[str]) -> None:
        self._display = display
        self._trackers = Trackers(names, display.warning, display.message)
        self._folder: RunFolder | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return cast(Callable[..., Any], getattr(self._display, name))

    def start(self, run_path: Path, rounds: int, about: Sequence[str]) -> None:
        """Begin with a run; of one that goes on, the committed rounds are told first."""
        self.end("failed")
        self._display.start(run_path, rounds, about)
        self._meter, self._last, self._rounds = Meter(), -1, rounds
        self._folder = RunFolder(run_path)
        try:
            self._trackers.start(subject_of(run_path))
            for record, rows in self._folder.committed():
                self._tell(record, [row.status for row in rows])
        except FedaptError as error:
            self._display.warning(f"the run so far cannot be tracked: {error}")

    def round_done(self, record: RoundRecord) -> None:
        """Tell a round that was committed; one that was played again is not told again."""
        self._display.round_done(record)
        if self._folder and record.round > self._last:
            try:
                ledger = self._folder.commits.folder(record.round) / "ledger.parquet"
                self._tell(record, list(statuses_by_round([ledger])[record.round].elements()))
            except FedaptError as error:
                self._display.warning(f"round {record.round} cannot be tracked: {error}")

    def finish(self, summary: Summary, run_path: Path) -> None:
        """Tell how the run has ended."""
        self._display.finish(summary, run_path)
        self._trackers.finish(
            final_figures(asdict(summary)), summary.rounds - 1, "finished" if summary.rounds == self._rounds else "stopped"
        )

    def end(self, ending: Ending) -> None:
        """Let go of a run that has not told how it ended; nothing happens if there is none."""
        self._trackers.finish({}, 0, ending)
        self._folder = None

    def _tell(self, record: RoundRecord, statuses: Sequence[str]) -> None:
        row = asdict(record)
        row |= {f"bits.{layer}": bits for layer, bits in row.pop("wish_bits").items()}
        counts = Counter(statuses)
        self._trackers.log(record.round, self._meter.figures(row, counts), record.clock_s)
        self._last = record.round
