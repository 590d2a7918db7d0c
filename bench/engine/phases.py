"""Where a round's time goes in fedapt: `python -m bench.engine.phases W2`.

A whole run of the workload, inline and with Ray, under Python's profiler, which makes small functions look dearer than they are:
read it for the order of things. Times are of all rounds, in ms a client; of Ray it sees the driver alone, and the workers do what
`inline` does. A phase holds what lies under it.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.engine import own
from bench.engine.prepare import prepare
from bench.engine.work import Work
from bench.engine.workloads import WORKLOADS, shortened

LINES = 25


def profile(work: Work, engine: dict[str, Any], precision: dict[str, Any]) -> pstats.Stats:
    """Return the profile of a run."""
    profiler = cProfile.Profile()
    profiler.enable()
    own.play(work, engine, precision)
    profiler.disable()
    return pstats.Stats(profiler)


def table(stats: pstats.Stats, clients: int) -> list[str]:
    """Return the functions of fedapt by the time under them, then all functions by the time in themselves."""
    found: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = stats.stats  # type: ignore[attr-defined]
    fedapt = {place: one for place, one in found.items() if _is_fedapt(place[0])}
    lines = ["  ms under  ms itself     calls  of fedapt"]
    for place, (_, calls, itself, under, _) in sorted(fedapt.items(), key=lambda item: -item[1][3])[: 2 * LINES]:
        lines.append(f"{1000 * under / clients:10.3f} {1000 * itself / clients:10.3f} {calls / clients:9.2f}  {_name(place)}")
    lines += ["", "ms itself     calls  of all"]
    for place, (_, calls, itself, _, _) in sorted(found.items(), key=lambda item: -item[1][2])[:LINES]:
        lines.append(f"{1000 * itself / clients:9.3f} {calls / clients:9.2f}  {_name(place)}")
    return lines


def _is_fedapt(file: str) -> bool:
    return any(f"/{part}/" in file for part in ("fedapt", "clients", "strategies")) and "site-packages" not in file


def _name(place: tuple[str, int, str]) -> str:
    file, line, function = place
    return f"{Path(file).parent.name}/{Path(file).name}:{line} {function}" if line else function


def main() -> None:
    """Print the profiles of a workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--engine", choices=("inline", "ray"), default="inline", help="default inline")
    parser.add_argument(
        "--bits", choices=(8, 32), type=int, default=32, help="of the weights while they are trained (default 32)"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        work = prepare(shortened(WORKLOADS[options.workload]), Path(folder) / "work")
        stats = profile(work, {"kind": options.engine}, own.FP32 if options.bits == 32 else own.EIGHT_BITS)
        print("\n".join(table(stats, work.workload.rounds * work.workload.cohort)))


if __name__ == "__main__":
    main()
