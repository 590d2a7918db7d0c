"""Samples from a table: a Parquet file, a folder, or a data set of the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedapt.data import columns
from fedapt.data.columns import Place
from fedapt.data.hub import from_hub
from fedapt.data.inputs import inputs
from fedapt.data.source import Array, Ints, Source, sample, split_off
from fedapt.data.spec import DataSpec, is_path
from fedapt.data.tables import Frame, from_path
from fedapt.errors import SetupError

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE, TEST = "data.source", "data.test"


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of a table, ascending."""

    frame: Frame
    rows: Ints

    def read(self, column: str) -> pa.ChunkedArray:
        """Return these rows of a column."""
        values = self.frame.read(column)
        return values if len(self.rows) == self.frame.count else values.take(self.rows)


def tabular(spec: DataSpec, seed: int) -> Source:
    """Read the labels and what the partition looks at; the inputs follow when they are asked for."""
    train, test = _parts(spec, seed)
    pixels = columns.choose(train.frame, spec.columns.input, columns.INPUTS, "input")
    label = columns.choose(train.frame, spec.columns.label, columns.LABELS, "label")
    frames = [train.frame] if test.frame is train.frame else [train.frame, test.frame]
    for name, role in ((pixels, "input"), (label, "label")):
        columns.choose(test.frame, name, (), role)
    # The classes come from whole tables: they must not change with the number of samples that are used.
    classes, names = columns.labels(
        [frame.read(label) for frame in frames],
        [Place(frame.where, label) for frame in frames],
        columns.class_names(train.frame, label),
    )

    def read_inputs(owner: object) -> tuple[Array, Array]:
        first = inputs(train.read(pixels), spec.shape, Place(train.frame.where, pixels))
        second = inputs(test.read(pixels), spec.shape, Place(test.frame.where, pixels))
        if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
            raise SetupError(
                f"{test.frame.where}: the samples of the test set are {list(second.shape[1:])} {second.dtype}, "
                f"but those of the training set {list(first.shape[1:])} {first.dtype}; they must be alike."
            )
        return first, second

    return Source(classes[0][train.rows], classes[-1][test.rows], names, read_inputs, _extra(spec, train))


def _extra(spec: DataSpec, train: Part) -> dict[str, Array]:
    """Return the column of numbers that the partition looks at, where that is not the label."""
    wanted = spec.partition.column
    if wanted == "client" and spec.columns.client is not None:
        name = columns.choose(train.frame, spec.columns.client, (), "client")
        return {"client": columns.ids(train.read(name), Place(train.frame.where, name))}
    if wanted in (None, "label", "client") or wanted not in train.frame.schema.names:
        return {}
    return {wanted: columns.numbers(train.read(wanted), Place(train.frame.where, wanted))}


def _parts(spec: DataSpec, seed: int) -> tuple[Part, Part]:
    """Return the training part and the test part, of one table or of two."""
    splits = from_path(spec.source, SOURCE) if is_path(spec.source) else from_hub(spec.source, SOURCE)
    train, test = _only(splits, "train", SOURCE), _test_frame(spec, splits)
    for frame in (train, test or train):
        if frame.count == 0:
            raise SetupError(f"{frame.where} holds no rows; give a file with samples.")
    if test is not None:
        rows, test_rows = np.arange(train.count), np.arange(test.count)
    else:
        rows, test_rows = _split_column(train) or split_off(train.count, spec.test_share, seed)
    return (
        Part(train, sample(rows, spec.samples, seed, "train")),
        Part(test or train, sample(test_rows, spec.test_samples, seed, "test")),
    )


def _only(splits: dict[str, Frame], name: str, key: str) -> Frame:
    if name not in splits and len(splits) != 1:
        raise SetupError(f"{key}: there is no split `{name}`, only {', '.join(sorted(splits))}; give a single file.")
    return splits[name] if name in splits else next(iter(splits.values()))


def _test_frame(spec: DataSpec, splits: dict[str, Frame]) -> Frame | None:
    """Return the table of the test set: the one named, or the file beside the training file, or the source's own split."""
    if spec.test is not None:
        return _only(from_path(spec.test, TEST), "test", TEST)
    path = Path(spec.source).expanduser()
    beside = path.with_name(re.sub(r"(^|[-_.])train$", r"\1test", path.stem) + path.suffix)
    if beside != path and path.is_file() and beside.is_file():
        return from_path(str(beside), TEST)["train"]
    if len(splits) == 1:
        return None
    return splits.get("test", splits.get("validation"))


def _split_column(frame: Frame) -> tuple[Ints, Ints] | None:
    """Return the training and the test rows that a column `split` with the values `train` and `test` tells apart."""
    if "split" not in frame.schema.names:
        return None
    values = np.asarray(frame.read("split").to_pylist(), dtype=object)
    train, test = np.flatnonzero(values == "train"), np.flatnonzero(values == "test")
    return (train, test) if len(train) and len(test) else None
