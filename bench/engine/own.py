"""fedapt as its users run it: a whole run from its scenario, with ledger, commits and report."""

from __future__ import annotations

import io
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.engine.prepare import SEED, data_spec, model_options
from bench.engine.work import Played, Work
from fedapt import __version__
from fedapt.cost.ledger import RoundRecord
from fedapt.plugins import load_plugins
from fedapt.record.totals import Summary
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper

FP32 = {"kind": "fp32"}
EIGHT_BITS = {"kind": "fixed", "bits": 8, "rounding": "stochastic"}


class Clock(Display):
    """A display that says nothing, and notes when rounds end."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.ends_s: list[float] = []

    def round_done(self, record: RoundRecord) -> None:
        """Note the end of a round, its commit included."""
        self.ends_s.append(time.monotonic())

    def finish(self, summary: Summary, path: Path) -> None:
        """Say nothing."""


def scenario(work: Work, engine: dict[str, Any], precision: dict[str, Any]) -> Scenario:
    """Return the workload as a scenario, whose global model is evaluated in the last round alone."""
    workload = work.workload
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "engine",
            "seed": SEED,
            "rounds": workload.rounds,
            "data": data_spec(work.folder, workload).model_dump(),
            "model": model_options(workload).model_dump(),
            "clients": {
                "count": workload.clients,
                "per_round": workload.cohort,
                "local": {"epochs": workload.epochs, "batch": workload.batch, "lr": workload.lr},
                "method": {"precision": precision},
            },
            "engine": engine,
            "evaluate": {"every": workload.rounds},
        }
    )


def play(work: Work, engine: dict[str, Any], precision: dict[str, Any]) -> Played:
    """Play all rounds; raises RuntimeError if a client did not take part in a round that it was chosen for."""
    load_plugins(["bench.engine.plugin"])
    with TemporaryDirectory() as folder, Stopper() as stopper:
        clock = Clock()
        path = run(scenario(work, engine, precision), Path(folder), clock, stopper)
        finished = read_run(path)
        ledger = finished.ledger
        if set(ledger["status"]) != {"ok"} or len(ledger) != work.workload.rounds * work.workload.cohort:
            raise RuntimeError(f"not all clients trained: {finished.summary['statuses']}, {finished.summary['causes'][:1]}")
        weights = _weights(path)
        return Played(clock.ends_s, weights, {"fedapt": __version__} | _said(finished.summary))


def _said(summary: Any) -> dict[str, str]:
    """Return what a run says of how its cohorts were trained, if it does."""
    return {key: str(summary[key]) for key in ("batched", "compute") if summary.get(key)}


def _weights(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(path / "model.safetensors"))
