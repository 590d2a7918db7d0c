"""The moments between which the files of a run differ: where a test ends the process, as a power cut would."""

from __future__ import annotations

import os
import signal
from enum import StrEnum


class CrashPoint(StrEnum):
    """Every place at which a run can be ended by `FEDAPT_CRASH_AT`, in the order in which a run passes them."""

    STARTED = "started"
    TRAINED = "round trained"
    FOLDER_MADE = "commit: folder made"
    FILE_WRITTEN = "commit: first file written"
    FILES_WRITTEN = "commit: files written, no manifest"
    MANIFEST_WRITTEN = "commit: manifest written, no name"
    COMMITTED = "committed"
    ROUNDS_CSV = "rounds.csv grown"
    HALF_PRUNED = "an old state removed by half"
    PRUNED = "old states removed"
    MODEL = "results: model.safetensors"
    CLIENTS = "results: clients.csv"
    LEDGER = "results: ledger.parquet"
    SUMMARY = "results: summary.json"
    REPORT = "results: report.html"
    COMPLETE = "results: manifest.json"
    ROUNDS_RENAMED = "rounds renamed, not removed"


def crash_point(point: CrashPoint) -> None:
    """Kill this process if FEDAPT_CRASH_AT in its environment is this point, or `point#n` and it is passed for the nth time."""
    wanted = os.environ.get("FEDAPT_CRASH_AT")
    if wanted is None:
        return
    name, _, left = wanted.partition("#")
    if name == point:
        if int(left or 1) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        os.environ["FEDAPT_CRASH_AT"] = f"{name}#{int(left) - 1}"
