"""What the machine does beside the bench, and what a tree of processes holds; from /proc, so Linux only."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

# Of one core: what a machine that only runs this bench does not reach.
MOST_BUSY = 0.15
WATCHED_S = 3.0
EVERY_S = 0.1


def busy_cores(watched_s: float = WATCHED_S) -> float:
    """Return how many cores were at work over the next seconds. The load average would still count what has ended."""
    before, began = _busy_ticks(), time.monotonic()
    time.sleep(watched_s)
    return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)


def _busy_ticks() -> int:
    return busy_ticks(Path("/proc/stat").read_text(encoding="ascii"))


def busy_ticks(stat: str) -> int:
    """Return the ticks of all cores that were not idle, from the text of /proc/stat.

    Fields of proc_stat(5): user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
    """
    user, nice, system, _, _, irq, softirq, steal = (int(text) for text in stat.split("\n")[0].split()[1:9])
    return user + nice + system + irq + softirq + steal


def tree(root: int) -> list[int]:
    """Return a process with all of its descendants."""
    found = [root]
    for pid in found:
        try:
            tasks = os.listdir(f"/proc/{pid}/task")
            texts = [Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii") for task in tasks]
        except OSError:
            continue
        found += [int(child) for text in texts for child in text.split()]
    return found


def held_mib(root: int) -> float:
    """Return what a tree of processes holds: proportional set sizes, so that shared pages count once."""
    return sum(map(_proportional_kib, tree(root))) / 1024


def _proportional_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(text.partition("\nPss:")[2].split()[0]) if "\nPss:" in text else 0


class MemoryWatch:
    """Watches a tree of processes from a thread; reading it costs time, so runs that are timed are not watched."""

    def __init__(self, root: int) -> None:
        self.peak_mib = 0.0
        self._root, self._over = root, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            self.peak_mib = max(self.peak_mib, held_mib(self._root))

    def stop(self) -> float:
        """Return the peak."""
        self._over.set()
        self._thread.join()
        return self.peak_mib
