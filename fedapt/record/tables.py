"""Tables and JSON files of a run folder: written with all their digits, checked when they are read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapt.cost.ledger import ClientRecord, RoundRecord
from fedapt.errors import DamagedData
from fedapt.record.ledger_file import UNREADABLE

if TYPE_CHECKING:
    import pandas

ROUND_COLUMNS = [column.name for column in fields(RoundRecord) if column.name != "wish_bits"]
CLIENT_COLUMNS = [column.name for column in fields(ClientRecord)]
TEXTS = ["group", "profile", "status", "reason"]


def rounds_csv(records: Sequence[RoundRecord], layers: Sequence[str]) -> str:
    """Return the lines of rounds.csv, its heading first if the first record is of round 0."""
    lines: list[list[Any]] = [
        [*(getattr(record, name) for name in ROUND_COLUMNS), *(record.wish_bits.get(layer) for layer in layers)]
        for record in records
    ]
    if records and records[0].round == 0:
        lines.insert(0, [*ROUND_COLUMNS, *(f"bits.{layer}" for layer in layers)])
    return _csv(lines)


def clients_csv(clients: Sequence[ClientRecord]) -> str:
    """Return the lines of clients.csv."""
    return _csv([CLIENT_COLUMNS, *([getattr(client, name) for name in CLIENT_COLUMNS] for client in clients)])


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    """Return lines of CSV; None is an empty field, floats keep all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def as_json(value: Any) -> bytes:
    """Return a value as JSON; NaN and infinities, which JSON does not have, become null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """Turn what reading a file may raise into DamagedData."""
    try:
        yield path
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedData(f"{path} cannot be read ({reason}). Restore it from a copy, or run the scenario again.") from None


def read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read a file that holds a JSON object with these keys; raises DamagedData."""
    with readable(path):
        value = json.loads(path.read_bytes())
        missing = [key for key in keys if key not in value] if isinstance(value, dict) else ["of any name"]
        if missing:
            raise ValueError(f"it has no entry {', '.join(missing)}")
        return dict(value)


def read_csv(path: Path, columns: Sequence[str]) -> pandas.DataFrame:
    """Read a table of a run; what is not there yet has no rows; raises DamagedData."""
    with readable(path):
        return parse_csv(path.read_bytes() if path.exists() else b"", columns)


def parse_csv(text: bytes, columns: Sequence[str]) -> pandas.DataFrame:
    """Return a table of a run; a line without an end is left out; raises ValueError if these columns are not in it."""
    import pandas

    whole = text[: text.rfind(b"\n") + 1]
    if not whole:
        return pandas.DataFrame(columns=list(columns))
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
