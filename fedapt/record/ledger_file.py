"""The ledger as Parquet: one file a round, later one file for the run, with an explicit schema and a checksum on every page.

Without page checksums a flipped bit reads as a wrong number; with them it reads as a damaged file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from fedapt import __version__
from fedapt.cost.ledger import LedgerRow
from fedapt.errors import DamagedData
from fedapt.record.files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa

UNREADABLE = (OSError, ValueError, TypeError, KeyError, NotImplementedError, MemoryError, RecursionError)
ROW_GROUP = 50_000


def schema(layers: Sequence[str]) -> pa.Schema:
    """Return the ledger's schema: the fields of LedgerRow, None only where LedgerRow says so; `layers` go into the metadata."""
    import pyarrow as pa

    return pa.schema(_columns(), {"layers": json.dumps(list(layers)), "fedapt_version": __version__})


@cache
def _columns() -> list[pa.Field]:
    import pyarrow as pa

    types: dict[Any, pa.DataType] = {
        int: pa.int64(),
        int | None: pa.int64(),
        float: pa.float64(),
        float | None: pa.float64(),
        bool: pa.bool_(),
        list[int]: pa.list_(pa.int64()),
        list[float]: pa.list_(pa.float64()),
    }
    hints = get_type_hints(LedgerRow)
    return [
        pa.field(name, types.get(hint, pa.string()), nullable=type(None) in getattr(hint, "__args__", ()))
        for name, hint in hints.items()
    ]


def encode(rows: Sequence[LedgerRow], layers: Sequence[str]) -> bytes:
    """Return rows as the bytes of a Parquet file."""
    import pyarrow as pa

    names, columns = [column.name for column in fields(LedgerRow)], schema(layers)
    values = zip(*map(attrgetter(*names), rows), strict=True) if rows else ((),) * len(names)
    buffer = io.BytesIO()
    with _writer(buffer, columns, "snappy") as writer:
        writer.write_table(pa.table(dict(zip(names, values, strict=True)), schema=columns))
    return buffer.getvalue()


def read_batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a ledger file piece by piece, every page verified; raises DamagedData for any other content."""
    with _ledger(path) as file:
        for number in range(file.num_row_groups):
            # Not iter_batches: where a page's header is damaged, it ends early without a word.
            table = file.read_row_group(number, columns=list(columns) if columns else None)
            if table.num_rows != file.metadata.row_group(number).num_rows:
                raise ValueError(f"it has {table.num_rows} of {file.metadata.row_group(number).num_rows} rows")
            yield table


def read_layers(path: Path) -> list[str]:
    """Return the names of the quantised layers that a ledger file was written with; raises DamagedData."""
    with _ledger(path) as file:
        names: list[str] = json.loads(file.schema_arrow.metadata[b"layers"])
        return names


def read_rows(path: Path) -> list[LedgerRow]:
    """Return a ledger file as rows, equal to those that were written."""
    return [LedgerRow(**row) for table in read_batches(path) for row in table.to_pylist()]


def compact(folder: Path, parts: Sequence[Path], layers: Sequence[str]) -> None:
    """Put the rounds' ledger files together as `ledger.parquet` of a run folder, without holding them all in memory."""
    import pyarrow as pa

    columns = schema(layers)
    needed = sum(part.stat().st_size for part in parts)
    waiting: list[pa.Table] = []
    with whole_file(folder / "ledger.parquet", needed) as file, _writer(file, columns, "zstd") as writer:
        for part in parts:
            waiting.extend(table.replace_schema_metadata(columns.metadata) for table in read_batches(part))
            if sum(table.num_rows for table in waiting) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _writer(file: Any, columns: pa.Schema, compression: str) -> Any:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(file, columns, compression=compression, write_page_checksum=True)


@contextmanager
def _ledger(path: Path) -> Iterator[Any]:
    """Open a ledger file, and turn what its reader may raise into DamagedData."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(path, file.schema_arrow)
            yield file
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DamagedData(
            f"{path} is damaged ({reason}). Restore it from a copy, or run again from the folder's scenario.yaml."
        ) from None


def _check_schema(path: Path, found: pa.Schema) -> None:
    expected = schema(())
    if found.remove_metadata() == expected.remove_metadata() and b"layers" in (found.metadata or {}):
        return
    writer = (found.metadata or {}).get(b"fedapt_version", b"another program").decode(errors="replace")
    differing = sorted({column.name for column in set(found) ^ set(expected)})
    raise DamagedData(
        f"{path} is not a ledger that fedapt {__version__} can read: it was written by {writer} and differs in"
        f" {', '.join(differing) or 'its metadata'}. Read it with the version that wrote it."
    )
