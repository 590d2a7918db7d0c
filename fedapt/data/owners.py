"""Which client owns which sample: runs flwr-datasets' partitioners, quietly, and keeps what they decided.

A partitioner sees a table of row numbers and the column it looks at, never the inputs. As in flwr-datasets' `FederatedDataset`,
the rows are put into a seeded order first, because some partitioners cut them as they come. The decision is cached: importing
flwr-datasets and partitioning takes longer than everything else about data.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedapt.data import partition
from fedapt.data.cache import cached, digest
from fedapt.data.extras import need, version
from fedapt.data.partition import Partition, Task
from fedapt.errors import ScenarioError
from fedapt.seeding import numpy_stream

log = logging.getLogger(__name__)

Owners = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

PURPOSE = "data.partition"


def owners(how: Partition, task: Task) -> Owners:
    """Return the owner of each row (n,) int32: a client's number, or -1; a pure function of the arguments.

    Raises ScenarioError where the partitioner cannot serve so many clients from these samples.
    """
    if task.clients > len(task.labels):
        raise ScenarioError(
            f"{PURPOSE}: {len(task.labels)} samples cannot be shared among {task.clients} clients; "
            "lower clients.count or raise data.samples."
        )
    column = {} if how.column is None else {how.column: _column(how.kind, how.column, task)}
    key = digest(
        *(Path(str(source)).read_bytes() for source in (__file__, partition.__file__)),
        f"{version('flwr-datasets', PURPOSE)} {version('datasets', PURPOSE)} {np.__version__}",
        f"{how.model_dump_json()} {task.clients} {task.seed}",
        task.labels,
        *column.values(),
    )
    return cached("partition", key, lambda: _decide(how, task, column))


def rows_of(owner: Owners, clients: int) -> list[Rows]:
    """Return the rows of each client, ascending."""
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.searchsorted(owner[order], np.arange(clients + 1)))[1:-1]


def _column(kind: str, name: str, task: Task) -> npt.NDArray[Any]:
    if name == "label":
        return task.labels
    if name in task.columns:
        return task.columns[name]
    if name == "client":
        raise ScenarioError(
            f"{PURPOSE}: {kind} needs a column of client ids: name it as data.columns.client, of a file or a data set of the hub."
        )
    raise ScenarioError(f"{PURPOSE}: {kind}: the data has no column `{name}`.")


def _decide(how: Partition, task: Task, column: dict[str, npt.NDArray[Any]]) -> Owners:
    datasets = need("datasets", "flwr-datasets", PURPOSE)
    module = partitioners()
    order = numpy_stream(task.seed, "data.partition.order").permutation(len(task.labels))
    with _quiet():
        try:
            partitioner = getattr(module, class_name(how))(**how.arguments(task))
            table = {"row": order} | {name: values[order] for name, values in column.items()}
            partitioner.dataset = datasets.Dataset.from_dict(table)
            parts = _chosen(how.kind, partitioner.num_partitions, task)
            rows = [np.asarray(partitioner.load_partition(int(part))[:]["row"], dtype=np.int64) for part in parts]
        except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as error:
            problem = f"{how.kind} cannot share {len(order)} samples among {task.clients} clients: {str(error).rstrip('. ')}"
            raise ScenarioError(f"{PURPOSE}: {problem}. Change its options, clients.count or data.samples.") from error
    owner = np.full(len(order), -1, dtype=np.int32)
    for client, own in enumerate(rows):
        owner[own] = client
    if np.count_nonzero(owner >= 0) != sum(map(len, rows)):
        raise ScenarioError(f"{PURPOSE}: {how.kind} gave one sample to several clients; choose another partition.")
    return owner


def class_name(how: Partition) -> str:
    """Return the name of flwr-datasets' class for these options."""
    return "".join(word.capitalize() for word in how.kind.split("_")) + "Partitioner"


def _chosen(kind: str, parts: int, task: Task) -> npt.NDArray[Any]:
    """Return which parts become clients: all, or a seeded choice where the data makes more parts than there are clients."""
    if parts < task.clients:
        raise ScenarioError(
            f"{PURPOSE}: {kind} makes {parts} parts of this data; lower clients.count from {task.clients} to {parts}."
        )
    return np.sort(numpy_stream(task.seed, "data.partition.chosen").permutation(parts)[: task.clients])


def partitioners() -> Any:
    """Import flwr-datasets' partitioners without running its package's `__init__`.

    That imports its plots: matplotlib, seaborn and scipy take a second, and several where matplotlib has no font cache yet.
    """
    name = "flwr_datasets"
    if name in sys.modules:
        return importlib.import_module(f"{name}.partitioner")
    found = importlib.util.find_spec(name)
    if found is None:
        return need(name, "flwr-datasets", PURPOSE)
    sys.modules[name] = importlib.util.module_from_spec(found)
    try:
        return importlib.import_module(f"{name}.partitioner")
    finally:
        del sys.modules[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send a partitioner's warnings to the log and its progress bars nowhere."""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        log.info("%s: %s", PURPOSE, message)
