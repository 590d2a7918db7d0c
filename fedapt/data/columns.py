"""What is in a table: finding the columns, and turning them into arrays of images, features, labels and client ids."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedapt.data.tables import Frame, Place
from fedapt.errors import SetupError

if TYPE_CHECKING:
    import pyarrow as pa

INPUTS = ("image", "img", "features", "x", "pixels")
TEXTS = ("text", "sentence", "utterance")
LABELS = ("label", "labels", "fine_label", "y", "target", "class")
CLIENTS = ("client", "client_id", "speaker", "subject", "user", "user_id", "writer", "writer_id")

TEXT_TYPES = ("string", "large_string", "string_view")

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int64]
Names = tuple[str, ...]


def choose(frame: Frame, given: str | None, usual: Sequence[str], role: str) -> str:
    """Return the column for a role, `input`, `label` or `client`: the given one, or the only one with a usual name."""
    listing = ", ".join(f"{field.name} ({field.type})" for field in frame.schema)
    if given is not None:
        if given not in frame.schema.names:
            raise SetupError(f"data.columns.{role}: {frame.where} has no column `{given}`; its columns are {listing}.")
        return given
    found: list[str] = [name for name in frame.schema.names if name in usual]
    if len(found) == 1:
        return found[0]
    problem = f"has several candidates ({', '.join(found)})" if found else "has none of the usual names"
    raise SetupError(
        f"{frame.where}: the {role} column cannot be told: the table {problem}. "
        f"Name it as data.columns.{role}; the columns are {listing}."
    )


def choose_input(frame: Frame, given: str | None) -> str:
    """Return the column of the inputs; text is what is left where there are neither images nor features."""
    numeric = given is not None or any(name in INPUTS for name in frame.schema.names)
    return choose(frame, given, INPUTS if numeric else TEXTS, "input")


def choose_clients(frame: Frame, given: str | list[str] | None) -> Names:
    """Return the columns that tell the clients apart: the given ones, or the only one with a usual name, or none."""
    if isinstance(given, list):
        return tuple(choose(frame, name, CLIENTS, "client") for name in given)
    if given is None and not any(name in CLIENTS for name in frame.schema.names):
        return ()
    return (choose(frame, given, CLIENTS, "client"),)


def signal_shape(frame: Frame) -> tuple[int, int] | None:
    """Return the channels and steps of signals in flat lists, or None.

    The schema's metadata tell it where `feature_format` contains `reshape(-1,steps,channels)`.
    """
    about = (frame.schema.metadata or {}).get(b"feature_format", b"").decode(errors="replace")
    found = re.search(r"reshape\(-1, ?(\d+), ?(\d+)\)", about)
    return (int(found[2]), int(found[1])) if found else None


def is_text(frame: Frame, column: str) -> bool:
    """Return whether a column holds text."""
    return str(frame.schema.field(column).type) in TEXT_TYPES


def class_names(frame: Frame, column: str) -> Names | None:
    """Return the names of the classes from the schema's metadata: `class_names` (JSON), or a ClassLabel of Hugging Face."""
    metadata = frame.schema.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = features.get(column, {}).get("names") or json.loads(metadata.get(b"class_names", b"[]"))
    except (ValueError, AttributeError):
        return None
    return tuple(map(str, names)) or None


def labels(columns: list[pa.ChunkedArray], places: list[Place], names: Names | None) -> tuple[list[Ints], Names]:
    """Return each column as class numbers (n,), and the names of the classes.

    Whole numbers that the names cover are class numbers already; otherwise the sorted values of all columns are the classes.
    """
    values = [_values(column, place) for column, place in zip(columns, places, strict=True)]
    if names is not None and all(value.dtype.kind == "i" for value in values):
        for value, place in zip(values, places, strict=True):
            low, high = value.min(), value.max()
            if low < 0 or high >= len(names):
                raise place.wrong(f"labels must be 0..{len(names) - 1}, one a class name, but they span {low}..{high}.")
        return values, names
    if len({value.dtype.kind for value in values}) > 1:
        raise places[-1].wrong("its labels and those of the training set are of different kinds; use numbers, or text, in both.")
    classes = np.unique(np.concatenate(values))
    return [np.searchsorted(classes, value) for value in values], tuple(str(name) for name in classes)


def ids(column: pa.ChunkedArray, place: Place) -> Ints:
    """Return client ids, of any plain type, as numbers that sort like the ids."""
    return np.unique(_values(column, place), return_inverse=True)[1].astype(np.int64)


def client_ids(columns: Sequence[pa.ChunkedArray], places: Sequence[Place]) -> Ints:
    """Return the numbers of the clients whom several columns tell apart together, the first one first."""
    parts = [ids(column, place) for column, place in zip(columns, places, strict=True)]
    return np.unique(np.stack(parts), axis=1, return_inverse=True)[1].astype(np.int64).reshape(-1)


def texts(column: pa.ChunkedArray, place: Place) -> list[str]:
    """Return a column of text."""
    if column.null_count:
        raise place.wrong(f"{column.null_count} of {len(column)} rows have no value; leave those rows out.")
    return [str(text) for text in column.to_pylist()]


def numbers(column: pa.ChunkedArray, place: Place) -> npt.NDArray[np.float64]:
    """Return a numeric column as float64."""
    try:
        array: npt.NDArray[np.float64] = column.to_numpy().astype(np.float64)
    except (TypeError, ValueError) as error:
        raise place.wrong(f"a column of numbers is needed, but its type is {column.type}.") from error
    if not np.isfinite(array).all():
        raise place.wrong("some of its numbers are missing or not finite; leave those rows out.")
    return array


def _values(column: pa.ChunkedArray, place: Place) -> Array:
    """Return a column of whole numbers as int64 or of text as a numpy string array."""
    if column.null_count:
        raise place.wrong(f"{column.null_count} of {len(column)} rows have no value; leave those rows out.")
    kind = str(column.type)
    if kind.startswith("dictionary"):
        column = column.cast(column.type.value_type)
        kind = str(column.type)
    if kind in ("string", "large_string", "string_view"):
        return np.array(column.to_pylist(), dtype=np.str_)
    if kind == "bool" or kind.startswith(("int", "uint", "float", "double", "halffloat")):
        array: Array = column.to_numpy()
        if array.dtype.kind != "f" or (array % 1 == 0).all():
            return array.astype(np.int64)
        raise place.wrong("classes are whole numbers or text, but some values have a fraction; regression is not supported.")
    raise place.wrong(f"whole numbers or text are needed, but its type is {kind}.")
