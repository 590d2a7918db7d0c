"""TensorBoard: event files in the run's own folder, so that `tensorboard --logdir runs` shows all runs there.

Tracking a run again replaces its event files. The time of a point is the run's begin plus simulated time, so that TensorBoard's
relative axis shows what the devices took.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedapt.tracking.tracker import Ending, Subject

FOLDER = "tensorboard"


class TensorBoard:
    """Writes scalars, the parameters as a table and as hyperparameters."""

    def __init__(self) -> None:
        from torch.utils import tensorboard

        self._open: Any = tensorboard.SummaryWriter
        self._hparams: Any = tensorboard.summary.hparams

    def start(self, subject: Subject) -> str:
        """Begin anew in `<run>/tensorboard`."""
        folder = subject.path / FOLDER
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._subject, self._at_s = subject, subject.began_s
        self._writer = self._open(str(folder))
        rows = [f"| {name} | {value} |" for name, value in {**subject.parameters, **subject.tags}.items()]
        self._writer.add_text("scenario", "\n".join(["| key | value |", "| --- | --- |", *rows]), walltime=self._at_s)
        return f"tensorboard --logdir {subject.path.parent}"

    def log(self, step: int, figures: Mapping[str, float], clock_s: float) -> None:
        """Write a point of each scalar."""
        self._at_s = self._subject.began_s + clock_s
        self._write(figures, step)
        self._writer.flush()

    def finish(self, figures: Mapping[str, float], step: int, ending: Ending) -> None:
        """Write the final figures, which the page of hyperparameters shows too, and close the file."""
        self._write(figures, step)
        for summary in self._hparams({**self._subject.parameters, "ending": ending}, dict(figures)):
            self._writer.file_writer.add_summary(summary, walltime=self._at_s)
        self._writer.close()

    def _write(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step, walltime=self._at_s)
