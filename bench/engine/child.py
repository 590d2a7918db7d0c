"""One contestant in a process of its own: `python -m bench.engine.child CONTESTANT FOLDER OUTPUT WORKERS`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from bench.engine.contestants import CONTESTANTS
from bench.engine.work import Work


def main() -> None:
    """Play the workload of a folder, and leave the times and the weights in OUTPUT; of several ranks, the first does."""
    name, folder, output, workers = sys.argv[1:]
    work = Work.read(Path(folder))
    played = CONTESTANTS[name].play(work, int(workers))
    if os.environ.get("RANK", "0") != "0":
        return
    np.savez(Path(output) / "weights.npz", **played.weights)  # type: ignore[arg-type]
    said = {"ends_s": played.ends_s, "facts": played.facts, "driver_peak_mib": _own_peak_mib()}
    (Path(output) / "played.json").write_text(json.dumps(said), encoding="utf-8")


def _own_peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
