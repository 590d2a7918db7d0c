"""fedapt's engine beside a bare training loop, Flower and pfl-research, on the same work.

    python -m bench.engine --output DIR                              all of it; needs an idle machine
    python -m bench.engine --output DIR --quick                      fewer rounds, two repeats, memory of fedapt's driver alone
    python -m bench.engine --output DIR --workload W2 --contestant floor fedapt-ray
    python -m bench.engine --output DIR --peer-python VENV/bin/python

The Python of --peer-python has what bench/engine/requirements.txt names; without it pfl is left out. DIR/results.jsonl has a line
for each run, DIR/engine.md the tables, DIR/environment.json the machine. Runs that DIR has already are kept and not run again.
Fashion-MNIST and CIFAR-10 come from ../shared/data (or FEDAPT_SHARED_DATA); where that is missing, images are drawn. Linux only.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.engine.contestants import CONTESTANTS, FLOOR, plays
from bench.engine.machine import MOST_BUSY, busy_cores
from bench.engine.measure import measure, parity
from bench.engine.prepare import SHARED, prepare
from bench.engine.report import report
from bench.engine.work import Weights
from bench.engine.workloads import WORKLOADS, Workload, shortened
from fedapt.environment import environment, usable_cores
from fedapt.record.files import append, write_whole
from fedapt.record.tables import as_json
from fedapt.seeding import numpy_stream

FEWEST_REPEATS = 5
QUICK_REPEATS = 2


def main() -> None:
    """Measure what is missing, and print the report."""
    options = _options()
    # As an interrupt does, so that no contestant is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    options.output.mkdir(parents=True, exist_ok=True)
    busy = busy_cores()
    if busy > MOST_BUSY and not options.busy:
        sys.exit(
            f"{busy:.2f} cores are busy, {MOST_BUSY:g} at most may be: end what runs beside the bench, or mark it with --busy"
        )
    pfl = _version_of_pfl(options.peer_python)
    names = [name for name in options.contestant if pfl or not CONTESTANTS[name].peer]
    if left_out := sorted(set(options.contestant) - set(names)):
        print(f"left out: {', '.join(left_out)}; {options.peer_python} has no pfl (see --peer-python)", flush=True)
    # One busy part makes a busy whole, and a mark stays.
    path = options.output / "environment.json"
    marked = path.exists() and json.loads(path.read_text(encoding="utf-8"))["busy"]
    about = environment() | {
        "pfl": pfl,
        "workers": options.workers,
        "repeats": options.repeats,
        "quick": options.quick,
        "data": str(SHARED) if SHARED.exists() else "drawn",
        "busy_cores": busy,
        "busy": bool(marked) or busy > MOST_BUSY,
    }
    write_whole(path, as_json(about))
    file = options.output / "results.jsonl"
    with TemporaryDirectory(prefix="bench-engine-") as folder:
        for workload in (WORKLOADS[name] for name in options.workload):
            wanted = [name for name in names if plays(name, workload.name, workload.scale)]
            for row in _measured(shortened(workload) if options.quick else workload, wanted, options, file, Path(folder)):
                append(file, json.dumps(row) + "\n")
                print(_said(row), flush=True)
    text = report(_rows(file), about)
    write_whole(options.output / "engine.md", text.encode())
    print(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--workload", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), help="default all")
    parser.add_argument("--contestant", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS), help="default all")
    parser.add_argument("--repeats", type=int, help=f"at least {FEWEST_REPEATS}; with --quick {QUICK_REPEATS}")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="processes of those that use all cores (default: cores)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and repeats: a look, not a result")
    parser.add_argument("--busy", action="store_true", help="measure on a busy machine, and mark the results")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has pfl (default: this one)")
    options = parser.parse_args()
    options.repeats = options.repeats or (QUICK_REPEATS if options.quick else FEWEST_REPEATS)
    if options.repeats < FEWEST_REPEATS and not options.quick:
        parser.error(f"--repeats {options.repeats}: fewer than {FEWEST_REPEATS} say too little; add --quick for a look")
    return options


def _measured(
    workload: Workload, names: Sequence[str], options: argparse.Namespace, file: Path, folder: Path
) -> Iterator[dict[str, Any]]:
    """Yield the missing rows of a workload: repeat after repeat, each in another order, and at last once for the memory."""
    done = {_identity(row) for row in _rows(file)}
    wanted = [(repeat, name, False) for repeat in range(options.repeats) for name in turned(names, repeat)]
    wanted += [] if options.quick else [(0, name, True) for name in names]
    missing = [one for one in wanted if (workload.name, *one) not in done]
    if not missing:
        return
    work = prepare(workload, folder / workload.name)
    reference: Weights | None = None
    if any((name, watched) != (FLOOR, False) for _, name, watched in missing):
        _, reference = measure(work, FLOOR, options.workers, options.peer_python, watched=False)
    for repeat, name, watched in missing:
        row, weights = measure(work, name, options.workers, options.peer_python, watched=watched)
        row = {"repeat": repeat, **row}
        if weights is not None and repeat == 0 and not watched:
            row |= parity(work, weights, reference)
        yield row


def turned(names: Sequence[str], repeat: int) -> list[str]:
    """Return the names in an order of the repeat's own, so that nobody always follows the same one."""
    return [names[index] for index in numpy_stream(0, "bench.turn", repeat).permutation(len(names))]


def _identity(row: dict[str, Any]) -> tuple[str, int, str, bool]:
    return row["workload"], row["repeat"], row["contestant"], row["watched"]


def _rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def _said(row: dict[str, Any]) -> str:
    start = f"{row['workload']} {row['contestant']} #{row['repeat']}:"
    if "failure" in row:
        return f"{start} failed: {row['failure'][-300:]}"
    return f"{start} {row['client_ms']:.2f} ms a client, first round {row['first_s']:.1f} s, whole run {row['whole_s']:.1f} s"


def _version_of_pfl(python: str) -> str | None:
    code = "from importlib.metadata import version; import pfl.model.pytorch; print(version('pfl'))"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError as error:
        sys.exit(f"--peer-python {python} cannot be run ({error.strerror}): give the path of a Python, or leave it out")
    return asked.stdout.strip() or None


if __name__ == "__main__":
    main()
