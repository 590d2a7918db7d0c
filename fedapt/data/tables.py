"""Tables on disk: Parquet files, folders of them, and data sets saved by Hugging Face's `datasets`, by split."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedapt.data.extras import need
from fedapt.errors import DamagedData, SetupError

if TYPE_CHECKING:
    import pyarrow as pa

PACKAGE = "pyarrow"


@dataclass(frozen=True)
class Place:
    """Where a column is: for error messages, which begin with it."""

    where: str
    column: str

    def wrong(self, problem: str) -> SetupError:
        """Return the error that says what is wrong with this column."""
        return SetupError(f"{self.where}: column `{self.column}`: {problem}")


@dataclass(frozen=True)
class Frame:
    """A table whose columns are read when they are asked for."""

    where: str
    count: int
    schema: pa.Schema
    read: Callable[[str], pa.ChunkedArray]


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a table, ascending."""

    frame: Frame
    rows: npt.NDArray[np.int64]

    def read(self, column: str) -> pa.ChunkedArray:
        """Return these rows of a column."""
        values = self.frame.read(column)
        return values if len(self.rows) == self.frame.count else values.take(self.rows)

    def place(self, column: str) -> Place:
        """Return where a column is, for error messages."""
        return Place(self.frame.where, column)


def from_path(path: str, key: str) -> dict[str, Frame]:
    """Return the splits found at a path, `train` first of all; `key` is the option that named it, for error messages.

    A lone file is the split `train`, and so is a folder whose file names mention no split.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise SetupError(
            f"{key}: {place.absolute()} does not exist. Give the path of a .parquet file, of a folder of them, or of a folder "
            "written by datasets.save_to_disk; a data set of the hub is written `hub:owner/name`."
        )
    if place.is_file():
        return {"train": parquet([place], key)}
    if (place / "dataset_dict.json").exists() or (place / "dataset_info.json").exists():
        return from_datasets(_open(need("datasets", "flwr-datasets", key).load_from_disk, place, key), str(place))
    files = sorted(place.rglob("*.parquet"))
    if not files:
        raise SetupError(
            f"{key}: the folder {place.absolute()} holds no .parquet file and no data set written by datasets.save_to_disk."
        )
    splits: dict[str, list[Path]] = {}
    for file in files:
        named = re.search(r"(?:^|[-_.])(train|test|validation)(?:[-_.]|$)", file.stem)
        splits.setdefault(named[1] if named else "train", []).append(file)
    return {name: parquet(members, key) for name, members in splits.items()}


def parquet(files: list[Path], key: str) -> Frame:
    """Return a frame over Parquet files of one schema; raises DamagedData if a file is not readable Parquet."""
    arrow = need("pyarrow.parquet", PACKAGE, key)
    heads = [_open(arrow.ParquetFile, file, key) for file in files]
    for file, head in zip(files, heads, strict=True):
        if not head.schema_arrow.equals(heads[0].schema_arrow):
            raise SetupError(
                f"{key}: {file} and {files[0]} have different columns; name one .parquet file instead of the folder."
            )

    def column(name: str) -> pa.ChunkedArray:
        read = lambda file: arrow.ParquetFile(file, page_checksum_verification=True).read([name])  # noqa: E731
        return need("pyarrow", PACKAGE, key).concat_tables([_open(read, file, key) for file in files])[name]

    where = str(files[0] if len(files) == 1 else files[0].parent)
    return Frame(where, sum(head.metadata.num_rows for head in heads), heads[0].schema_arrow, column)


def from_datasets(data: Any, where: str) -> dict[str, Frame]:
    """Return the splits of a `datasets.DatasetDict`, or of a `datasets.Dataset` as `train`."""
    members = data if isinstance(data, dict) else {"train": data}
    return {name: _saved(member, where) for name, member in members.items()}


def _saved(data: Any, where: str) -> Frame:
    read = lambda name: data.select_columns([name]).with_format("arrow")[:][name]  # noqa: E731
    return Frame(where, len(data), data.features.arrow_schema, read)


def _open(action: Callable[[Path], Any], path: Path, key: str) -> Any:
    """Run a reading action, turning what goes wrong into a sentence about the file."""
    try:
        return action(path)
    except PermissionError as error:
        raise SetupError(
            f"{key}: {path.absolute()} may not be read ({error.strerror}); change its permissions or copy it."
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DamagedData(
            f"{key}: {path.absolute()} is damaged or not of the kind its name says ({reason}); fetch it again."
        ) from error
