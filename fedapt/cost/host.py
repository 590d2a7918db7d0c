"""What the machine that this runs on says about itself: its processor, memory, cache, and energy counter."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path

SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
NO_LIMIT = 2**60


def processor(root: Path = Path("/")) -> str:
    """Return the name of the processor, or of the board where the kernel names that."""
    lines = (_text(root / "proc/cpuinfo") or "").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, "") or platform.processor() or platform.machine()


def available_bytes(root: Path = Path("/")) -> tuple[int, str] | None:
    """Return the bytes that this process could still take, and what says so: the system or the tightest control group."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo") or "", re.MULTILINE))
    rooms = [(room, "the room left in this process's control group") for room in _group_rooms(root)]
    if "MemAvailable" in found:
        rooms.append((int(found["MemAvailable"]) * 2**10, "MemAvailable of /proc/meminfo"))
    return min(rooms, default=None)


def last_level_cache_bytes(root: Path = Path("/")) -> tuple[int, int] | None:
    """Return the size of the largest cache that the first core can use, and its level."""
    levels: list[tuple[int, int]] = []
    for index in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        size = re.fullmatch(r"(\d+)([KMG]?)", _text(index / "size") or "")
        level = _text(index / "level") or ""
        if size and level.isdigit():
            levels.append((int(level), int(size[1]) * SIZES[size[2]]))
    if not levels:
        return None
    last, size_bytes = max(levels)
    return size_bytes, last


class EnergyCounter:
    """The joules that all processor packages have used, from the kernel's powercap counters (RAPL)."""

    def __init__(self, packages: list[Path]) -> None:
        self._packages = packages
        self._last = self._read()
        self._used_uj = 0

    @classmethod
    def find(cls, root: Path = Path("/")) -> EnergyCounter | None:
        """Return the machine's counter; None if it has none, or keeps it from users other than root."""
        packages = sorted((root / "sys/class/powercap").glob("intel-rapl:[0-9]"))
        readable = [package for package in packages if (_text(package / "energy_uj") or "").isdigit()]
        return cls(readable) if readable else None

    def joules(self) -> float:
        """Return the joules since the counter was made; to be called more often than it wraps (a minute or so)."""
        now = self._read()
        for package, before, after in zip(self._packages, self._last, now, strict=True):
            wrap = 0 if after >= before else int(_text(package / "max_energy_range_uj") or 0)
            self._used_uj += after - before + wrap
        self._last = now
        return self._used_uj / 1e6

    def _read(self) -> list[int]:
        return [int(_text(package / "energy_uj") or 0) for package in self._packages]


def _group_rooms(root: Path) -> Iterator[int]:
    """Yield the bytes left under each memory limit above this process: control groups of version 2, and of version 1.

    Inside a container its own group is mounted as the top, whatever path /proc names.
    """
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = root / "sys/fs/cgroup/memory"
        else:
            continue
        folder = top / path.lstrip("/")
        for group in (folder, *folder.parents):
            if group == top.parent:
                break
            room = _room(group, *names)
            if room is not None:
                yield room


def _room(group: Path, limit_name: str, used_name: str, cache_name: str) -> int | None:
    limit, used = _text(group / limit_name) or "", _text(group / used_name) or ""
    if not limit.isdigit() or not used.isdigit() or int(limit) >= NO_LIMIT:
        return None
    # Files that were read once are given back before anything fails.
    cached = re.search(rf"^{cache_name} (\d+)$", _text(group / "memory.stat") or "", re.MULTILINE)
    return max(int(limit) - int(used) + (int(cached[1]) if cached else 0), 0)


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
