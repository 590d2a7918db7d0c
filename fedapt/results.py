"""The run folder: what a run writes, when, and how it is read back.

A run that is killed at any moment has every committed round in `rounds/`, and `fedapt resume` takes it up there. What is outside
of `rounds/` is made of it, and written again by a resumed run; `manifest.json` comes last, and only in a run that has played all
its rounds.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapt import __version__
from fedapt.cost.ledger import ClientRecord, LedgerRow, RoundRecord
from fedapt.errors import DamagedData, SetupError
from fedapt.pretrained import FILE as PRETRAINED
from fedapt.record.commits import MANIFEST, STATE, Commits, check, digest_of, manifest, verified
from fedapt.record.crash_points import CrashPoint, crash_point
from fedapt.record.files import append, explained, write_whole
from fedapt.record.ledger_file import compact, encode, read_batches, read_layers, read_rows
from fedapt.record.tables import (
    CLIENT_COLUMNS,
    ROUND_COLUMNS,
    as_json,
    clients_csv,
    parse_csv,
    read_csv,
    read_json,
    readable,
    rounds_csv,
)
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
model.safetensors  the final global model, in fp32           safetensors.numpy.load_file("model.safetensors")
summary.json       the figures of the final screen; without it the run was killed
report.html        the same as a page with plots; needs no network
run.log            what happened
pretrained.safetensors   what the model was before the first round, where the scenario has it pretrained
rounds/            one folder a round, until all rounds are played: its ledger, and of the newest ones the model and all that
                   `fedapt resume` needs to go on to the same bits
manifest.json      sizes and SHA-256 of the files above; written last, when all rounds were played

Units are in the names: _j joules, _s seconds, _bytes bytes. Rounds and clients count from 0.
"""
LEDGER_COLUMNS = [column.name for column in fields(LedgerRow)]
SUMMARY_KEYS = [column.name for column in fields(Summary)]
RESULTS = ("model.safetensors", "clients.csv", "ledger.parquet", "summary.json")
LISTED = ("scenario.yaml", "environment.json", "rounds.csv", *RESULTS)


class RunFolder:
    """Writes one run; `path` is the folder. Every method raises DamagedData if the disk or the folder fails it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commits = Commits(path / "rounds")
        self._layers: list[str] = []

    @classmethod
    def create(cls, root: Path, name: str) -> RunFolder:
        """Make a new folder such as `runs/noniid-20261120-181500` under `root`; raises SetupError if that is not allowed."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "run"
        stem += time.strftime("-%Y%m%d-%H%M%S")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path = _new_folder(root, stem)
            (path / "rounds").mkdir()
        except OSError as error:
            raise SetupError(
                f"{root}: no run folder can be made there ({error.strerror}). Choose a writable folder for the results."
            ) from None
        return cls(path)

    def write_start(self, scenario_yaml: str, environment: Mapping[str, Any]) -> None:
        """Write what is known before the first round: a README, the environment, and last the resolved scenario."""
        write_whole(self.path / "README.txt", README.format(version=__version__).encode())
        write_whole(self.path / "environment.json", as_json(dict(environment)))
        # A folder is a run from here on.
        write_whole(self.path / "scenario.yaml", scenario_yaml.encode())
        crash_point(CrashPoint.STARTED)

    def commit_round(self, record: RoundRecord, rows: Sequence[LedgerRow], state: Mapping[str, bytes], keep: int = 1) -> None:
        """Commit a round, and keep the states of the `keep` newest rounds; the first round's `wish_bits` names the layers."""
        self._layers = self._layers or list(record.wish_bits)
        ledger = encode(in_order(rows), self._layers)
        # NaN, unlike in the results, must come back as what it was.
        self.commits.write(record.round, {"ledger.parquet": ledger, "record.json": json.dumps(asdict(record)).encode(), **state})
        append(self.path / "rounds.csv", rounds_csv([record], self._layers))
        crash_point(CrashPoint.ROUNDS_CSV)
        self.commits.prune(record.round, keep)

    def recover(self) -> tuple[dict[str, bytes] | None, str]:
        """Make the folder what it was after the newest whole round; return that round's state, and what is wrong after it.

        Without a committed round there is no state. Raises DamagedData if there are rounds, but none to go on from.
        """
        newest, problem = self.commits.newest()
        state = self.commits.read(newest, STATE) if newest >= 0 else None
        records = [record for record, _ in _committed(self.commits, newest + 1)]
        self._layers = list(records[0].wish_bits) if records else []
        with explained(self.path):
            for path in [*(self.path / name for name in (*RESULTS, "report.html")), *self.path.glob(".*.tmp")]:
                path.unlink(missing_ok=True)
            self.commits.path.mkdir(exist_ok=True)
        self.commits.drop_after(newest)
        write_whole(self.path / "rounds.csv", rounds_csv(records, self._layers).encode())
        return state, problem

    def committed(self) -> Iterator[tuple[RoundRecord, list[LedgerRow]]]:
        """Yield what every committed round was committed with."""
        for record, path in _committed(self.commits, len(self.commits.numbers())):
            yield record, read_rows(path)

    def finish(self, model: Mapping[str, np.ndarray], clients: Sequence[ClientRecord], summary: Summary) -> None:
        """Write the model, the clients, the compacted ledger and, last, the summary."""
        from safetensors.numpy import save

        # One metadata key: with several, their order, and so the file's bytes, differ between processes.
        about = json.dumps({"fedapt_version": __version__, "layers": self._layers}, sort_keys=True)
        # safetensors writes memory as it lies, whatever the strides.
        arrays = {name: np.asarray(values, order="C") for name, values in model.items()}
        write_whole(self.path / "model.safetensors", save(arrays, {"fedapt": about}))
        crash_point(CrashPoint.MODEL)
        write_whole(self.path / "clients.csv", clients_csv(clients).encode())
        crash_point(CrashPoint.CLIENTS)
        ledgers = [self.commits.folder(number) / "ledger.parquet" for number in self.commits.numbers()]
        compact(self.path, ledgers, self._layers)
        crash_point(CrashPoint.LEDGER)
        write_whole(self.path / "summary.json", as_json(asdict(summary)))
        crash_point(CrashPoint.SUMMARY)

    def complete(self) -> None:
        """Write the manifest of a run that has played all its rounds, and remove the folder of rounds."""
        crash_point(CrashPoint.REPORT)
        with explained(self.path):
            names = [*LISTED, *([PRETRAINED] if (self.path / PRETRAINED).exists() else [])]
            files = {name: digest_of(self.path / name) for name in names}
        write_whole(self.path / MANIFEST, manifest(files))
        crash_point(CrashPoint.COMPLETE)
        self.commits.remove()

    @property
    def is_complete(self) -> bool:
        """Whether the run has played all its rounds, and all its results are written."""
        return (self.path / MANIFEST).exists()


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

    def ledger_columns(self, names: Sequence[str]) -> pandas.DataFrame:
        """Return these columns of all ledger rows; raises DamagedData."""
        import pandas

        parts = [table.to_pandas() for path in self.ledger_parts for table in read_batches(path, names)]
        return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=list(names))

    def choices(self, most: int) -> list[tuple[str, str, int]]:
        """Return (group, what its clients chose and why, how many rounds of clients), the most frequent first."""
        rows = self.ledger_columns(["group", "status", "choice"])
        counts = rows[rows["status"] == "ok"].value_counts(["group", "choice"])
        return [(str(group), str(choice), int(count)) for (group, choice), count in counts.head(most).items()]

    def layer_bits(self, group: str | None = None) -> pandas.DataFrame:
        """Return each layer's (column) bits in each round (index): the mean over the aggregated updates, of all or of a group."""
        sums = self._layer_sums
        if group is not None:
            sums = sums[sums.index.get_level_values("group") == group]
        total = sums.groupby(level="round").sum()
        return total.drop(columns="updates").div(total["updates"], axis=0).set_axis(self.layers, axis=1)

    @cached_property
    def _layer_sums(self) -> pandas.DataFrame:
        """The sum of each layer's bits (columns by the layer's number) and how many `updates` it is of, by round and group."""
        import pandas

        names = ["round", "group"]
        sums = [pandas.DataFrame(columns=[*names, *range(len(self.layers)), "updates"])]
        for path in self.ledger_parts if self.layers else ():
            for table in read_batches(path, [*names, "status", "layer_bits"]):
                frame = table.to_pandas()
                frame = frame[(frame["status"] == "ok") & (frame["layer_bits"].map(len) == len(self.layers))]
                if len(frame):
                    bits = pandas.DataFrame(np.stack(frame["layer_bits"])).assign(updates=1)
                    bits = bits.assign(round=frame["round"].to_numpy(), group=frame["group"].astype(str).to_numpy())
                    sums.append(bits.groupby(names).sum().reset_index())
        return pandas.concat([part for part in sums if len(part)] or sums).groupby(names).sum()


def read_run(path: Path) -> Run:
    """Read a run folder; raises SetupError if it is none and DamagedData, naming the file, if a part cannot be read."""
    require_run(path)
    if (path / MANIFEST).exists():
        check(path)
    with readable(path / "scenario.yaml") as file:
        scenario = file.read_text(encoding="utf-8")
    environment = read_json(path / "environment.json", ())
    finished = (path / "summary.json").exists()
    if finished:
        rounds = read_csv(path / "rounds.csv", ROUND_COLUMNS)
        parts = [path / "ledger.parquet"]
        summary = read_json(path / "summary.json", SUMMARY_KEYS)
        with readable(path / "rounds.csv"):
            if len(rounds) != summary["rounds"] or rounds["round"].tolist() != list(range(len(rounds))):
                raise ValueError(f"it does not hold the rounds 0 to {summary['rounds'] - 1}")
    else:
        rounds, parts, summary = _interrupted(Commits(path / "rounds"))
    layers = read_layers(parts[0]) if parts else []
    clients = read_csv(path / "clients.csv", CLIENT_COLUMNS)
    return Run(path, finished, rounds, clients, summary, scenario, environment, layers, tuple(parts))


def require_run(path: Path) -> None:
    """Raise SetupError if a folder is not that of a run."""
    if not (path / "scenario.yaml").is_file():
        raise SetupError(f"{path} is not a run folder (it has no scenario.yaml). Give the path that `fedapt run` printed first.")


def _interrupted(commits: Commits) -> tuple[pandas.DataFrame, list[Path], dict[str, Any]]:
    """Return the rounds of a run that was killed, their ledgers, and a summary added up from them."""
    totals, records, parts = Totals(), [], []
    try:
        for record, path in _committed(commits, len(commits.numbers())):
            totals.add(read_rows(path))
            records.append(record)
            parts.append(path)
    except DamagedData as error:
        raise DamagedData(f"{error}. `fedapt resume` goes on from the newest whole round.") from None
    layers = list(records[0].wish_bits) if records else []
    rounds = parse_csv(rounds_csv(records, layers).encode(), ROUND_COLUMNS)
    return rounds, parts, json.loads(as_json(asdict(totals.summarise(records, ()))))


def _committed(commits: Commits, rounds: int) -> Iterator[tuple[RoundRecord, Path]]:
    """Yield the record and the ledger file of each of the first rounds, both held against the manifest; raises DamagedData."""
    for number in range(rounds):
        folder = commits.folder(number)
        files = dict(verified(folder, ("record.json", "ledger.parquet")))
        try:
            record = RoundRecord(**json.loads(files["record.json"]))
        except (ValueError, TypeError) as error:
            raise DamagedData(f"{folder / 'record.json'} is not of fedapt {__version__} ({error})") from None
        yield record, folder / "ledger.parquet"


def _new_folder(root: Path, stem: str) -> Path:
    for number in range(1, 1000):
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise FileExistsError(0, f"{stem} to {stem}-999 are taken")
