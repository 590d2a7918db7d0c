"""Samples from a table: a Parquet file, a folder, or a data set of the hub."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fedapt.data import columns
from fedapt.data.hub import from_hub
from fedapt.data.inputs import inputs, signals
from fedapt.data.source import Array, Ints, Source, class_numbers, of_classes, sample, split_off
from fedapt.data.spec import DataSpec, is_path
from fedapt.data.tables import Frame, Part, Place, from_path
from fedapt.data.tokens import CHARACTERS, Characters, Tokens, Words, hashed_words, vocabulary
from fedapt.data.windows import Windows, windows
from fedapt.errors import ScenarioError, SetupError

SOURCE, TEST = "data.source", "data.test"


def tabular(spec: DataSpec, seed: int) -> Source:
    """Read the labels and what the partition looks at; the inputs follow when they are asked for."""
    train, test = _parts(spec, seed)
    column = columns.choose_input(train.frame, spec.columns.input)
    columns.choose(test.frame, column, (), "input")
    tokens = _tokens(spec, train.frame, column)
    if isinstance(tokens, Characters):
        return _running(spec, tokens, train, test, column, seed)
    return _labelled(spec, tokens, train, test, column, seed)


def _labelled(spec: DataSpec, tokens: Tokens | None, train: Part, test: Part, column: str, seed: int) -> Source:
    """Return samples that are rows with a label."""
    label = columns.choose(train.frame, spec.columns.label, columns.LABELS, "label")
    columns.choose(test.frame, label, (), "label")
    frames = [train.frame] if test.frame is train.frame else [train.frame, test.frame]
    # The classes come from whole tables: they must not change with the number of samples that are used.
    labels, names = columns.labels(
        [frame.read(label) for frame in frames],
        [Place(frame.where, label) for frame in frames],
        columns.class_names(train.frame, label),
    )
    classes = class_numbers(spec.classes, names)
    rows = of_classes(train.rows, labels[0][train.rows], classes, "training")
    train = Part(train.frame, sample(rows, spec.samples, seed, "train"))
    rows = of_classes(test.rows, labels[-1][test.rows], classes, "test")
    test = Part(test.frame, sample(rows, spec.test_samples, seed, "test"))

    def read_inputs(owner: object) -> tuple[Array, Array]:
        first, second = (_inputs(spec, tokens, part, column) for part in (train, test))
        if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
            raise SetupError(
                f"{test.frame.where}: the samples of the test set are {list(second.shape[1:])} {second.dtype}, "
                f"but those of the training set {list(first.shape[1:])} {first.dtype}; they must be alike."
            )
        return first, second

    codes = vocabulary(tokens) if tokens else 0
    return Source(labels[0][train.rows], labels[-1][test.rows], names, read_inputs, _extra(spec, train), codes)


def _inputs(spec: DataSpec, tokens: Tokens | None, part: Part, column: str) -> Array:
    if isinstance(tokens, Words):
        return hashed_words(columns.texts(part.read(column), part.place(column)), tokens)
    values, place = part.read(column), part.place(column)
    shape = spec.shape or columns.signal_shape(part.frame)
    return signals(values, shape, place) if shape is not None and len(shape) == 2 else inputs(values, shape, place)


def _running(spec: DataSpec, tokens: Characters, train: Part, test: Part, column: str, seed: int) -> Source:
    """Return samples that are windows of characters; the texts of a client are read as one."""
    if spec.classes is not None:
        raise ScenarioError("data.classes: running text has no labels to choose by; leave it out, or name data.columns.label.")
    extra = _extra(spec, train)
    training = _windows(spec, tokens, train, column)
    training = training.only(sample(np.arange(len(training.followed)), spec.samples, seed, "train"))
    testing = _windows(spec, tokens, test, column)
    testing = testing.only(sample(np.arange(len(testing.followed)), spec.test_samples, seed, "test"))
    return Source(
        training.labels,
        testing.labels,
        CHARACTERS,
        lambda owner: (training.inputs(), testing.inputs()),
        {name: values[training.rows] for name, values in extra.items()},
        vocabulary(tokens),
    )


def _windows(spec: DataSpec, tokens: Characters, part: Part, column: str) -> Windows:
    clients = _clients(spec, part)
    owners = np.zeros(len(part.rows), np.int64) if clients is None else clients
    return windows(columns.texts(part.read(column), part.place(column)), owners, tokens, part.place(column))


def _tokens(spec: DataSpec, frame: Frame, column: str) -> Tokens | None:
    """Return how the inputs become tokens, by the options or by what the table holds; None if they are no text."""
    if not columns.is_text(frame, column):
        if spec.tokens is not None:
            raise Place(frame.where, column).wrong("data.tokens are for text, which this column is not; leave them out.")
        return None
    if spec.shape is not None:
        raise Place(frame.where, column).wrong("data.shape is for images and signals; the length of texts is data.tokens.length.")
    labelled = spec.columns.label is not None or any(name in columns.LABELS for name in frame.schema.names)
    return spec.tokens or (Words() if labelled else Characters())


def _extra(spec: DataSpec, train: Part) -> dict[str, Array]:
    """Return the column of numbers that the partition looks at, where that is not the label."""
    wanted = spec.partition.column
    if wanted == "client":
        clients = _clients(spec, train)
        return {} if clients is None else {"client": clients}
    if wanted in (None, "label") or wanted not in train.frame.schema.names:
        return {}
    return {wanted: columns.numbers(train.read(wanted), train.place(wanted))}


def _clients(spec: DataSpec, part: Part) -> Ints | None:
    """Return the client of each row, or None where nothing tells."""
    names = columns.choose_clients(part.frame, spec.columns.client)
    return columns.client_ids([part.read(name) for name in names], [part.place(name) for name in names]) if names else None


def _parts(spec: DataSpec, seed: int) -> tuple[Part, Part]:
    """Return all rows to train on and all to test on, of one table or of two."""
    splits = from_path(spec.source, SOURCE) if is_path(spec.source) else from_hub(spec.source, SOURCE)
    train, test = _only(splits, "train", SOURCE), _test_frame(spec, splits)
    for frame in (train, test or train):
        if frame.count == 0:
            raise SetupError(f"{frame.where} holds no rows; give a file with samples.")
    if test is not None:
        rows, test_rows = np.arange(train.count), np.arange(test.count)
    else:
        rows, test_rows = _split_column(train) or split_off(train.count, spec.test_share, seed)
    return Part(train, rows), Part(test or train, test_rows)


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
