"""The run folder: what a run writes, when, and how it is read back.

A folder that is killed at any moment holds every committed round: each file is whole or absent, only `rounds.csv` may end in half
a line, which reading leaves out.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapt import __version__
from fedapt.cost.ledger import ClientRecord, LedgerRow, RoundRecord
from fedapt.errors import DamagedData, SetupError
from fedapt.record.files import append_line, explained, write_whole
from fedapt.record.ledger_file import UNREADABLE, compact, encode, ledger_files, read_batches, read_layers, read_rows
from fedapt.record.totals import Summary, Totals, in_order

if TYPE_CHECKING:
    import pandas

README = """\
What is in this folder. It was written by fedapt {version}.

scenario.yaml      the scenario with every default filled in; `fedapt run scenario.yaml` repeats this run
environment.json   the machine, the versions, the threads and the command
rounds.csv         one line a round: accuracy, loss, costs, bits of each layer      pandas.read_csv("rounds.csv")
clients.csv        one line a client: final accuracy, samples, energy, status       pandas.read_csv("clients.csv")
ledger.parquet     one row for each round, client and attempt: every cost, and      pandas.read_parquet("ledger.parquet")
                   whether it was measured, modelled or is a constant
ledger/            the same while the run is going on, one file a round             pandas.read_parquet("ledger")
model.safetensors  the final global model, in fp32           safetensors.numpy.load_file("model.safetensors")
summary.json       the figures of the final screen; written last: without it the run was killed
report.html        the same as a page with plots; needs no network
run.log            what happened

Units are in the names: _j joules, _s seconds, _bytes bytes. Rounds and clients count from 0.
"""
ROUND_COLUMNS = [column.name for column in fields(RoundRecord) if column.name != "wish_bits"]
LEDGER_COLUMNS = [column.name for column in fields(LedgerRow)]
TEXTS = ["group", "profile", "status", "reason"]
SUMMARY_KEYS = [column.name for column in fields(Summary)]
CLIENT_COLUMNS = [column.name for column in fields(ClientRecord)]


class RunFolder:
    """Writes one run; `path` is the folder. Every method raises DamagedData if the disk or the folder fails it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._layers: list[str] = []

    @classmethod
    def create(cls, root: Path, name: str) -> RunFolder:
        """Make a new folder such as `runs/noniid-20261120-181500` under `root`; raises SetupError if that is not allowed."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "run"
        stem += time.strftime("-%Y%m%d-%H%M%S")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = _new_folder(root, stem)
            (path / "ledger").mkdir()
        except OSError as error:
            raise SetupError(
                f"{root}: no run folder can be made there ({error.strerror}). Choose a writable folder for the results."
            ) from None
        return cls(path)

    def write_start(self, scenario_yaml: str, environment: Mapping[str, Any]) -> None:
        """Write what is known before the first round: the resolved scenario, the environment, a README."""
        write_whole(self.path / "README.txt", README.format(version=__version__).encode())
        write_whole(self.path / "scenario.yaml", scenario_yaml.encode())
        write_whole(self.path / "environment.json", _json(dict(environment)))

    def commit_round(self, record: RoundRecord, rows: Sequence[LedgerRow]) -> None:
        """Write a round's ledger and then its line of rounds.csv; the first round's `wish_bits` names the layers."""
        self._layers = self._layers or list(record.wish_bits)
        path = self.path / "ledger" / f"round-{record.round:05}.parquet"
        write_whole(path, encode(in_order(rows), self._layers))
        rounds = self.path / "rounds.csv"
        if not rounds.exists():
            append_line(rounds, _csv([[*ROUND_COLUMNS, *(f"bits.{layer}" for layer in self._layers)]]))
        bits = [record.wish_bits.get(layer) for layer in self._layers]
        append_line(rounds, _csv([[*(getattr(record, name) for name in ROUND_COLUMNS), *bits]]))

    def finish(self, model: Mapping[str, np.ndarray], clients: Sequence[ClientRecord], summary: Summary) -> None:
        """Write the model, the clients, the compacted ledger and, last, the summary."""
        from safetensors.numpy import save

        # One metadata key: with several, their order, and so the file's bytes, differ between processes.
        about = json.dumps({"fedapt_version": __version__, "layers": self._layers}, sort_keys=True)
        write_whole(self.path / "model.safetensors", save(dict(model), {"fedapt": about}))
        lines = [CLIENT_COLUMNS, *([getattr(client, name) for name in CLIENT_COLUMNS] for client in clients)]
        write_whole(self.path / "clients.csv", _csv(lines).encode() + b"\n")
        committed = len(_read_csv(self.path / "rounds.csv", ROUND_COLUMNS))
        compact(self.path, ledger_files(self.path, committed), self._layers)
        with explained(self.path / "ledger"):
            shutil.rmtree(self.path / "ledger")
        write_whole(self.path / "summary.json", _json(asdict(summary)))


@dataclass(frozen=True)
class Run:
    """A run as read back; `finished` is false if it was killed, then `summary` is added up from the committed rounds.

    rounds:  one row a round; the columns of RoundRecord, `bits.<layer>` in place of `wish_bits`.
    clients: one row a client; the columns of ClientRecord; no rows if the run was killed.
    ledger_parts: the files that hold the ledger of the committed rounds.
    """

    path: Path
    finished: bool
    rounds: pandas.DataFrame
    clients: pandas.DataFrame
    summary: dict[str, Any]
    scenario: str
    environment: dict[str, Any]
    layers: list[str]
    ledger_parts: tuple[Path, ...]

    @cached_property
    def ledger(self) -> pandas.DataFrame:
        """All ledger rows, read when first asked for; raises DamagedData."""
        import pandas

        parts = [table.to_pandas() for path in self.ledger_parts for table in read_batches(path)]
        return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=LEDGER_COLUMNS)

    @cached_property
    def layer_bits(self) -> pandas.DataFrame:
        """The bits that each layer (column) had in each round (index), as the mean over the aggregated updates."""
        import pandas

        updates: list[pandas.DataFrame] = []
        for path in self.ledger_parts if self.layers else ():
            for table in read_batches(path, ["round", "status", "layer_bits"]):
                frame = table.to_pandas()
                frame = frame[(frame["status"] == "ok") & (frame["layer_bits"].map(len) == len(self.layers))]
                if len(frame):
                    bits = pandas.DataFrame(np.stack(frame["layer_bits"]), frame["round"], self.layers)
                    updates.append(bits.groupby(level=0).agg(["sum", "size"]))
        if not updates:
            return pandas.DataFrame(columns=self.layers)
        total = pandas.concat(updates).groupby(level=0).sum()
        return total.xs("sum", axis=1, level=1) / total.xs("size", axis=1, level=1)


def read_run(path: Path) -> Run:
    """Read a run folder; raises SetupError if it is none and DamagedData, naming the file, if a part cannot be read."""
    if not (path / "scenario.yaml").is_file():
        raise SetupError(f"{path} is not a run folder (it has no scenario.yaml). Give the path that `fedapt run` printed first.")
    with _readable(path / "scenario.yaml") as file:
        scenario = file.read_text(encoding="utf-8")
    environment = _read_json(path / "environment.json", ())
    rounds = _read_csv(path / "rounds.csv", ROUND_COLUMNS)
    parts = ledger_files(path, len(rounds))
    layers = read_layers(parts[0]) if parts else []
    finished = (path / "summary.json").exists()
    summary = _read_json(path / "summary.json", SUMMARY_KEYS) if finished else _interrupted(rounds, parts)
    with _readable(path / "rounds.csv"):
        if len(rounds) != summary["rounds"] or rounds["round"].tolist() != list(range(len(rounds))):
            raise ValueError(f"it does not hold the rounds 0 to {summary['rounds'] - 1}")
    clients = _read_csv(path / "clients.csv", CLIENT_COLUMNS)
    return Run(path, finished, rounds, clients, summary, scenario, environment, layers, tuple(parts))


def environment() -> dict[str, Any]:
    """Return what a result depends on besides its scenario: versions, threads, the CPU, and the command."""
    import torch

    return {
        **{name: _version(name) for name in ("fedapt", "torch", "flwr", "ray", "numpy")},
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _new_folder(root: Path, stem: str) -> Path:
    for number in range(1, 1000):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(0, f"{stem} to {stem}-999 are taken")


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    """Return lines of CSV without the last line end; None is an empty field, floats keep all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().removesuffix("\n")


def _json(value: Any) -> bytes:
    return json.dumps(_finite(value), indent=2, allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    try:
        yield path
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedData(f"{path} cannot be read ({reason}). Restore it from a copy, or run the scenario again.") from None


def _read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    with _readable(path):
        value = json.loads(path.read_bytes())
        missing = [key for key in keys if key not in value] if isinstance(value, dict) else ["of any name"]
        if missing:
            raise ValueError(f"it has no entry {', '.join(missing)}")
        return dict(value)


def _read_csv(path: Path, columns: Sequence[str]) -> pandas.DataFrame:
    """Read a table of a run; what is not there yet has no rows, and a line without an end was being written."""
    import pandas

    text = path.read_bytes() if path.exists() else b""
    whole = text[: text.rfind(b"\n") + 1]
    if not whole:
        return pandas.DataFrame(columns=list(columns))
    with _readable(path):
        names = next(csv.reader(whole.decode().splitlines()))
        # A group may be called NA, and an empty reason is a text: only numbers can be missing.
        gaps = {name: ["", "nan"] for name in names if name not in TEXTS}
        table = pandas.read_csv(io.BytesIO(whole), keep_default_na=False, na_values=gaps)
        unusable = [
            name for name in columns if name not in table or (name in gaps and len(table) and table[name].dtype.kind not in "iuf")
        ]
        if unusable:
            raise ValueError(f"it has no numbers or no column {', '.join(unusable)}")
    return table


def _interrupted(rounds: pandas.DataFrame, parts: Sequence[Path]) -> dict[str, Any]:
    """Add up the committed rounds of a run that was killed before its summary."""
    totals = Totals()
    for path in parts:
        totals.add(read_rows(path))
    records = [
        RoundRecord(wish_bits={}, **{name: row[name] for name in ROUND_COLUMNS})
        for row in rounds.astype(object).where(rounds.notna(), None).to_dict("records")
    ]
    summary: dict[str, Any] = json.loads(_json(asdict(totals.summarise(records, ()))))
    return summary


def _version(package: str) -> str | None:
    if package == "fedapt":
        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, platform.processor())
