"""A thousand rounds with every fault on: does memory stay flat, is anything leaked, do the totals add up to the last byte?

    python -m bench.soak                 1,000 rounds, about ten minutes on two cores
    python -m bench.soak --rounds 100    a look; too short to say anything of the memory

Two Ray workers, a small model on the digits, eight clients a round. Every ten rounds it notes the memory (resident and anonymous,
from /proc, so Linux only), the open handles and the worker processes, of this process and of its workers.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fedapt.cost.ledger import RoundRecord
from fedapt.record.totals import SUMMED
from fedapt.report.terminal import Display
from fedapt.results import Run, read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper

EVERY = 10
FEWEST = 5
WORKERS = 2
MOST_GROWTH = 0.01
DEADLINE_S = 0.015
# A replaced worker is gone a moment after its successor has come.
MOST_WORKERS = 2 * WORKERS
MEMORY = ("driver_anonymous", "driver_resident", "workers_anonymous")
COUNTS = ("driver_handles", "raylet_handles", "processes")
FAULTS = {
    "drop": 0.02,
    "crash": 0.01,
    "hang": 0.0005,
    "raise": 0.02,
    "nan": 0.02,
    "sign_flip": 0.1,
    "scale": {"share": 0.05, "factor": 3},
    "slow": {"share": 0.1, "factor": 20},
}


@dataclass(frozen=True)
class Sample:
    """What the processes held after a round; memory in MB, `workers_` is the mean over the worker processes."""

    round: int
    driver_resident: float
    driver_anonymous: float
    workers_resident: float
    workers_anonymous: float
    driver_handles: int
    raylet_handles: int
    workers: int
    processes: int


class Watch(Display):
    """A display that says nothing, and notes what the processes hold."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.samples: list[Sample] = []

    def round_done(self, record: RoundRecord) -> None:
        """Note every tenth round."""
        if (record.round + 1) % EVERY == 0:
            self.samples.append(sample(record.round))
            if (record.round + 1) % (10 * EVERY) == 0:
                print(line(self.samples[-1]), flush=True)


def scenario(rounds: int) -> Scenario:
    """Return the scenario: every kind of fault at a low rate, and rules that bear them."""
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "soak",
            "rounds": rounds,
            "data": {"source": "digits", "samples": 800, "test_samples": 100},
            "model": "mlp",
            "clients": {"count": 40, "per_round": 8, "method": {"precision": {"kind": "fixed", "bits": 8}}},
            "strategy": {"kind": "fedavg"},
            "engine": {"kind": "ray", "workers": WORKERS, "task_timeout_s": 20},
            "evaluate": {"every": 50},
            "failures": {"min_updates": 1, "max_empty_rounds": 10, "deadline_s": DEADLINE_S},
            "faults": FAULTS,
        }
    )


def sample(number: int) -> Sample:
    """Return what this process, its raylet and its workers hold now."""
    own = list(_descendants(os.getpid()))
    workers = [pid for pid in own if _command(pid).startswith("ray::Worker")]
    raylets = [pid for pid in own if Path(_command(pid).split(" ")[0]).name == "raylet"]
    held = np.array([_megabytes(pid) for pid in workers] or [(math.nan, math.nan)])
    resident, anonymous = held.mean(axis=0)
    handles = _handles(os.getpid()), sum(map(_handles, raylets))
    return Sample(number, *_megabytes(os.getpid()), resident, anonymous, *handles, len(workers), len(own))


def growth(values: list[float]) -> float:
    """Return by what share of its mean a straight line through the second half of the values rises over that half."""
    half = np.array(values[len(values) // 2 :])
    places = np.arange(len(half))
    known = np.isfinite(half)
    if known.sum() < FEWEST:
        return math.nan
    slope = np.polyfit(places[known], half[known], 1)[0]
    return float(slope * (len(half) - 1) / half[known].mean())


def leaks(samples: list[Sample]) -> list[str]:
    """Return a sentence for everything that grew."""
    found = []
    for name in MEMORY:
        if (rise := growth([getattr(one, name) for one in samples])) > MOST_GROWTH:
            found.append(f"{name} rose by {100 * rise:.2f} % over the second half")
    for name in COUNTS:
        first, last = (np.median([getattr(one, name) for one in part]) for part in (samples[1:11], samples[-10:]))
        if last > first + WORKERS:
            found.append(f"{name} rose from {first:.0f} to {last:.0f}")
    if most := [one.workers for one in samples if one.workers > MOST_WORKERS]:
        found.append(f"there were up to {max(most)} worker processes")
    if left := _left_behind():
        found.append(f"processes were left behind: {', '.join(left)}")
    return found


def wrong_totals(finished: Run, rounds: int) -> list[str]:
    """Return a sentence for every total that is not the sum of its rows: whole numbers and, in the ledger's order, floats."""
    ledger, table, total = finished.ledger, finished.rounds, finished.summary["total"]
    found = []
    for name in SUMMED:
        if (added := sum(ledger[name].tolist())) != total[name]:
            found.append(f"{name}: the rows add up to {added!r}, the summary says {total[name]!r}")
    for name in ("energy_j", "downlink_bytes", "uplink_bytes"):
        added = [sum(part[name].tolist()) for _, part in ledger.groupby("round")]
        if added != table[name].tolist():
            found.append(f"{name}: the rows of some rounds do not add up to rounds.csv")
    if len(table) != rounds or len(ledger) != total["attempts"] or sum(finished.summary["statuses"].values()) != len(ledger):
        found.append(f"{len(table)} of {rounds} rounds, {len(ledger)} rows, {total['attempts']} attempts")
    return found


def line(one: Sample) -> str:
    """Return a sample as a line of the table."""
    numbers = (f"{value:.1f}" if isinstance(value, float) else f"{value}" for value in astuple(one))
    return " ".join(f"{text:>{width}}" for text, width in zip(numbers, WIDTHS, strict=True))


HEADINGS = [field.name for field in fields(Sample)]
WIDTHS = [len(name) for name in HEADINGS]


def main() -> None:
    """Run it, print what was seen, and exit with 1 if something grew or does not add up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="how many rounds (default 1000)")
    rounds = parser.parse_args().rounds
    print(" ".join(HEADINGS), flush=True)
    with TemporaryDirectory() as folder, Stopper() as stopper:
        watch = Watch()
        finished = read_run(run(scenario(rounds), Path(folder), watch, stopper))
        wrong = wrong_totals(finished, rounds) + leaks(watch.samples)
        _tell(finished.summary, watch.samples)
    print("\n".join(wrong) or "nothing grew, and the totals are exact")
    sys.exit(bool(wrong))


def _tell(summary: dict[str, Any], samples: list[Sample]) -> None:
    print("attempts:", ", ".join(f"{count} {status}" for status, count in summary["statuses"].items()))
    for cause in summary["causes"]:
        print(f"  {cause['count']:5} {cause['status']}: {cause['reason'][:100]}")
    for name in MEMORY:
        print(f"{name}: {100 * growth([getattr(one, name) for one in samples]):+.2f} % over the second half")
    print(f"wall time {summary['wall_s']:.0f} s, final accuracy {summary['accuracy']}")


def _left_behind() -> list[str]:
    """Return the commands of processes that are still there ten seconds after the run; one that has ended has no command."""
    for _ in range(100):
        left = [command for pid in _descendants(os.getpid()) if (command := _command(pid))]
        if not left:
            break
        time.sleep(0.1)
    return left


def _descendants(pid: int) -> Iterator[int]:
    try:
        tasks = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return
    for child in (int(text) for children in tasks for text in children.split()):
        yield child
        yield from _descendants(child)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _megabytes(pid: int) -> tuple[float, float]:
    """Return resident and anonymous memory; NaN for a process that has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return math.nan, math.nan
    sizes = dict(text.split(":", 1) for text in lines)
    return tuple(int(sizes.get(name, "nan kB").split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))  # type: ignore[return-value]


def _handles(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


if __name__ == "__main__":
    main()
