"""What a result depends on besides its scenario, and in what two environments differ."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedapt import __version__
from fedapt.record.files import write_whole
from fedapt.record.tables import as_json, read_json

EXACT = ("fedapt", "torch", "flwr", "numpy", "threads", "cpu_capability", "gpu", "bf16")


def environment(scenario_yaml: str = "", *, gpu: bool = False, half: bool = False) -> dict[str, Any]:
    """Return versions, threads, the CPU, the command, and the digest of the resolved scenario.

    gpu: whether to name the GPU too, None if there is none; asking for its name takes hold of it. half: whether to name what the
    processor multiplies bf16 with, None if it has nothing for that.
    """
    import torch

    return {
        **{name: _version(name) for name in ("fedapt", "torch", "flwr", "ray", "numpy")},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        **({"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None} if gpu else {}),
        **({"bf16": _bf16_instructions()} if half else {}),
        "platform": platform.platform(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "scenario_sha256": hashlib.sha256(scenario_yaml.encode()).hexdigest(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each thing that may change the bits of a run and is not as it was."""
    changed = [f"{name} was {before.get(name)}, is {now.get(name)}" for name in EXACT if before.get(name) != now.get(name)]
    if before.get("scenario_sha256") != now["scenario_sha256"]:
        changed.append("scenario.yaml was edited")
    return changed


def mark_inexact(run: Path, changed: Sequence[str]) -> None:
    """Write into a run's environment.json what has changed under it, beside what it began with."""
    path = run / "environment.json"
    began = read_json(path, ())
    write_whole(path, as_json(began | {"inexact": [*dict.fromkeys([*began.get("inexact", []), *changed])]}))


def usable_cores() -> int:
    """Return how many cores this process may use; only Linux knows of fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    if package == "fedapt":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _bf16_instructions() -> str | None:
    import torch

    found: Mapping[str, Any] = torch.cpu.get_capabilities()
    return ", ".join(sorted(name for name, has in found.items() if "bf16" in name and has)) or None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor())
