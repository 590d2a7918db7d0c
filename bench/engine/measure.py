"""One measurement: a contestant plays a workload in its own process, and what comes of that as one flat row."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.engine.contestants import CONTESTANTS
from bench.engine.machine import MemoryWatch, tree
from bench.engine.statistics import steady_s
from bench.engine.work import Weights, Work

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 900.0
MOST_TOLD = 400
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A Ray of its own, even where another one runs on this machine.
    "RAY_ADDRESS": "local",
    # Its warning about accelerators that are not there.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    # The processor is what is measured, whatever else the machine has.
    "CUDA_VISIBLE_DEVICES": "",
}
# Else glibc hands large blocks back to the system and asks for them again in every step, or does not, as a process happens to lie
# in memory: convolutions then take up to twice as long in one run as in the next. fedapt has to see to that by itself.
STEADY_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


def measure(work: Work, name: str, workers: int, peer_python: str, *, watched: bool) -> tuple[dict[str, Any], Weights | None]:
    """Return the row of a measurement, and the weights that the contestant ended with.

    watched: memory is watched, and the times are then slower than they were. A contestant that fails has `failure` in its row.
    """
    python = peer_python if CONTESTANTS[name].peer else sys.executable
    with TemporaryDirectory(prefix="bench-engine-") as output:
        command = [python, "-m", "bench.engine.child", name, str(work.folder), output, str(workers)]
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        settings = QUIET | {"PYTHONPATH": paths} | ({} if name.startswith("fedapt") else STEADY_ALLOCATOR)
        log = Path(output) / "log"
        row: dict[str, Any] = {"workload": work.workload.name, "contestant": name, "watched": watched}
        with log.open("wb") as said:
            began_s = time.monotonic()
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | settings,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
            watch = MemoryWatch(child.pid) if watched else None
            try:
                problem = _wait(child)
            finally:
                _end(child)
        if watch:
            row["tree_peak_mib"] = watch.stop()
        row["whole_s"] = time.monotonic() - began_s
        if problem or not (Path(output) / "played.json").exists():
            told = log.read_text(encoding="utf-8", errors="replace").strip()
            return row | {"failure": " ".join(f"{problem} {told[-MOST_TOLD:]}".split())}, None
        played = json.loads((Path(output) / "played.json").read_text(encoding="utf-8"))
        row |= times(began_s, played["ends_s"], work.workload.cohort)
        row |= {"driver_peak_mib": played["driver_peak_mib"], **played["facts"]}
        with np.load(Path(output) / "weights.npz") as file:
            return row, dict(file)


def times(began_s: float, ends_s: list[float], cohort: int) -> dict[str, Any]:
    """Return the first round, cold from the start of the process, and a round and a client in steady state."""
    steady = steady_s(ends_s)
    return {
        "first_s": ends_s[0] - began_s,
        "steady_s": steady,
        "client_ms": 1000 * steady / cohort,
        "rounds_s": [after - before for before, after in itertools.pairwise(ends_s)],
    }


def _wait(child: subprocess.Popen[bytes]) -> str:
    """Return what was wrong with how a child ended."""
    try:
        code = child.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"it had not ended after {TIMEOUT_S:g} s."
    return f"it ended with {code}." if code else ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave none of a child's processes behind, if it is still there."""
    if child.poll() is None:
        for pid in reversed(tree(child.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        child.wait()


def parity(work: Work, weights: Weights, reference: Weights | None) -> dict[str, float]:
    """Return the accuracy of the weights, and how far they are from the floor's, relative to what the floor has learned."""
    found = {"accuracy": work.score(weights)}
    if reference is not None:
        initial = work.initial
        apart = sum(float(((weights[name] - reference[name]) ** 2).sum()) for name in initial)
        learned = sum(float(((initial[name] - reference[name]) ** 2).sum()) for name in initial)
        found |= {"reference_accuracy": work.score(reference), "apart": float(np.sqrt(apart / max(learned, 1e-30)))}
    return found
