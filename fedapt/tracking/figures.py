"""What trackers are told of a run, made of its folder alone: so live and afterwards are the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fedapt.cost.ledger import Status
from fedapt.errors import DamagedData
from fedapt.reading.yaml_source import read_bytes
from fedapt.record.ledger_file import read_batches
from fedapt.record.tables import read_json, readable
from fedapt.tracking.tracker import Plain, Subject

COUNTED = {"ok", "failed", "late"}
ABOUT = ("model", "strategy", "engine", "energy_table")


def subject_of(run: Path) -> Subject:
    """Return a run as trackers call it: its name is that of the folder; raises DamagedData if the folder cannot be read."""
    with readable(run / "scenario.yaml") as file:
        text, began_s = file.read_bytes(), file.stat().st_mtime
    source = read_bytes(text, str(file))
    if not isinstance(source.data, dict):
        raise DamagedData(f"{file} holds no scenario")
    about = {key: block.get("kind", "") if isinstance(block := source.data.get(key), dict) else block for key in ABOUT}
    environment = read_json(run / "environment.json", ())
    tags = {"fedapt": environment.get("fedapt"), "command": environment.get("command"), "scenario": source.data.get("name")}
    tags["folder"] = str(run.absolute().parent)
    # Cells of two benches may have one name and one scenario, and still be two runs.
    identity = f"{run.absolute().name}-{hashlib.sha256(text + str(int(began_s)).encode()).hexdigest()[:8]}"
    known = {name: str(value) for name, value in (tags | about).items() if value}
    return Subject(run, run.absolute().name, identity, began_s, dict(flattened(source.data)), known)


def flattened(value: Any, name: str = "") -> Iterator[tuple[str, Plain]]:
    """Yield a scenario's values by their dotted keys; a list of plain values is one text, of blocks it is numbered."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flattened(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for number, item in enumerate(value):
            yield from flattened(item, f"{name}.{number}")
    else:
        yield name, value if isinstance(value, Plain) else json.dumps(value)


@dataclass
class Meter:
    """Makes the figures of rounds; the sums that begin with `total/` run over the rounds it was given."""

    energy_j: float = 0.0
    bytes: int = 0

    def figures(self, round: Mapping[str, Any], statuses: Mapping[str, int]) -> dict[str, float]:
        """Return the figures of a round. round: by the columns of rounds.csv; statuses: its ledger rows by their status."""
        self.energy_j += round["energy_j"]
        self.bytes += int(round["downlink_bytes"] + round["uplink_bytes"])
        shown = {name.replace("bits.", "bits/"): value for name, value in round.items() if name not in {"round", *COUNTED}}
        shown["clients/cohort"] = shown.pop("cohort")
        shown |= {f"clients/{status}": statuses.get(status, 0) for status in get_args(Status)}
        return _finite(shown | {"total/energy_j": self.energy_j, "total/bytes": self.bytes})


def statuses_by_round(ledgers: Sequence[Path]) -> dict[int, Counter[str]]:
    """Return how many ledger rows each round has by their status; raises DamagedData."""
    counts: dict[int, Counter[str]] = {}
    for path in ledgers:
        for table in read_batches(path, ["round", "status"]):
            for number, status in zip(table["round"].to_pylist(), table["status"].to_pylist(), strict=True):
                counts.setdefault(number, Counter())[status] += 1
    return counts


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a whole run: those of summary.json, groups by their names."""
    return _finite({f"final/{name}": value for name, value in _numbers(summary)})


def _numbers(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in summary.items():
        if name == "groups":
            for group in value:
                yield from ((f"group/{group['group']}/{key}", figure) for key, figure in _numbers(group))
        elif name == "statuses":
            yield from ((f"clients/{status}", count) for status, count in value.items())
        elif isinstance(value, Mapping) and name != "sources":
            yield from ((f"{name}/{key}", figure) for key, figure in _numbers(value))
        else:
            yield name, value


def _finite(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return what is a number: a figure that a round does not have is left out."""
    numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
