"""Weights & Biases: to the project WANDB_PROJECT, or `fedapt`; with WANDB_MODE=offline to files in the run's own folder.

A run has one id whenever it is tracked, and W&B drops the steps that it has already. Offline, every time makes another folder
with that id, and `wandb sync` brings them together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from fedapt.errors import SetupError
from fedapt.tracking.tracker import Ending, Subject

# A server that is away must not keep the run waiting for W&B's minute and a half.
START_S = 30.0


class WeightsAndBiases:
    """Writes history, config and summary of a W&B run; neither the terminal nor the code is recorded."""

    def __init__(self) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb: Any = wandb

    def start(self, subject: Subject) -> str:
        """Begin the run of this id, or go on with it; raises SetupError without a login instead of asking for one."""
        wandb = self._wandb
        online = wandb.setup(wandb.Settings(silent=True)).settings.mode in (None, "online", "shared")
        if online and not wandb.login(prompt=False, verify=False):
            raise SetupError("nobody is logged in to W&B: run `wandb login`, or set WANDB_MODE=offline")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fedapt"),
            id=subject.identity,
            name=subject.name,
            dir=str(subject.path),
            config={**subject.parameters, **{f"fedapt.{name}": value for name, value in subject.tags.items()}},
            resume="allow",
            # A bench has several runs in one process.
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, init_timeout=START_S
            ),
        )
        return str(self._run.url if online else f"wandb sync {subject.path}/wandb/offline-run-*")

    def log(self, step: int, figures: Mapping[str, float], clock_s: float) -> None:
        """Write a round's history; `clock_s` is one of its figures, which a chart may have as its axis."""
        self._run.log(dict(figures), step=step)

    def finish(self, figures: Mapping[str, float], step: int, ending: Ending) -> None:
        """Write the summary, and how the run has ended."""
        self._run.summary.update({**figures, "ending": ending})
        self._run.finish(exit_code=0 if ending == "finished" else 1)
