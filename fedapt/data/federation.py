"""From the options of a scenario to the data of every client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedapt.data import strokes
from fedapt.data.digits import digits
from fedapt.data.examples import DataShape, Examples, freeze, statistics
from fedapt.data.owners import owners, rows_of
from fedapt.data.partition import Task
from fedapt.data.source import Source
from fedapt.data.spec import DataSpec
from fedapt.data.tabular import tabular
from fedapt.errors import SetupError
from fedapt.seeding import numpy_stream

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Federation:
    """The samples of all clients and the global test set.

    rows:     for each client, the rows of `train` that it trains on, ascending; disjoint, and empty for a client without data.
    held_out: for each client, those of its own rows of `train` that it never trains on.
    """

    train: Examples
    test: Examples
    rows: tuple[Rows, ...]
    held_out: tuple[Rows, ...]
    class_names: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.inputs.shape[1:]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def data_shape(self) -> DataShape:
        """What a model has to know of these samples."""
        return DataShape(self.shape, self.classes, self.train.vocabulary)

    @property
    def clients(self) -> int:
        """The number of clients, those without data included."""
        return len(self.rows)

    @property
    def without_data(self) -> tuple[int, ...]:
        """The clients that have nothing to train on."""
        return tuple(client for client, rows in enumerate(self.rows) if not len(rows))


def load(spec: DataSpec, clients: int, seed: int) -> Federation:
    """Read or draw the samples and share them out among the clients; a pure function of its arguments and of the files they name.

    Raises SetupError (missing, unsuitable), DamagedData (unreadable) or ScenarioError (a partition that cannot be made).
    """
    source = _source(spec, clients, seed)
    owner = owners(spec.partition, Task(source.labels, clients, seed, source.columns))
    inputs, test_inputs = source.inputs(owner)
    none = np.zeros(0, np.float32)
    mean, std = (none, none) if source.vocabulary else statistics(inputs)
    own = [_hold_out(rows, spec.held_out, client, seed) for client, rows in enumerate(rows_of(owner, clients))]
    return Federation(
        train=Examples(freeze(inputs), freeze(source.labels), mean, std, source.vocabulary),
        test=Examples(freeze(test_inputs), freeze(source.test_labels), mean, std, source.vocabulary),
        rows=tuple(kept for kept, _ in own),
        held_out=tuple(held_out for _, held_out in own),
        class_names=source.class_names,
    )


@dataclass(frozen=True, eq=False)
class Pool:
    """Samples that nobody owns, as the clients' models see their own: a training and a test set."""

    train: Examples
    test: Examples
    class_names: tuple[str, ...]

    @property
    def data_shape(self) -> DataShape:
        """What a model has to know of these samples."""
        return DataShape(self.train.inputs.shape[1:], len(self.class_names), self.train.vocabulary)


def pool(spec: DataSpec, federation: Federation, seed: int) -> Pool:
    """Read or draw samples for the server, normalised by the statistics of the federation: equal inputs mean the same.

    Raises what `load` does, and SetupError if the inputs are not of the federation's shape and kind.
    """
    source = _source(spec, federation.clients, seed)
    inputs, test_inputs = source.inputs(np.full(len(source.labels), -1, np.int32))
    own = federation.train
    # The kind alone would not do: bytes are divided by 255 before they are normalised, other numbers are not.
    found, wanted = [(*array.shape[1:], array.dtype.name) for array in (inputs, own.inputs)]
    if found != wanted or source.vocabulary != own.vocabulary:
        raise SetupError(
            f"data.source: its inputs are {_in_words(inputs, source.vocabulary)}, but the clients train on "
            f"{_in_words(own.inputs, own.vocabulary)}; they must be alike."
        )
    return Pool(
        Examples(freeze(inputs), freeze(source.labels), own.mean, own.std, own.vocabulary),
        Examples(freeze(test_inputs), freeze(source.test_labels), own.mean, own.std, own.vocabulary),
        source.class_names,
    )


def _in_words(inputs: npt.NDArray[Any], vocabulary: int) -> str:
    return f"{list(inputs.shape[1:])} {f'tokens of {vocabulary}' if vocabulary else inputs.dtype}"


def _source(spec: DataSpec, clients: int, seed: int) -> Source:
    if spec.source == "strokes":
        return strokes.source(spec, clients, seed)
    if spec.source == "digits":
        return digits(spec, seed)
    return tabular(spec, seed)


def _hold_out(rows: Rows, share: float, client: int, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to train on and a seeded random share kept from training: at least one of two, never all."""
    if share == 0 or len(rows) < 2:
        return rows, rows[:0]
    order = numpy_stream(seed, "data.held_out", client).permutation(len(rows))
    count = min(max(1, round(len(rows) * share)), len(rows) - 1)
    return rows[np.sort(order[count:])], rows[np.sort(order[:count])]
