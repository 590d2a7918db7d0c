"""The options of flwr-datasets' partitioners, by name: how samples are shared out among clients.

`num_partitions`, `partition_by` and `seed` come from the scenario; `shuffle` is left out, because a client's rows are a set here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from fedapt.options import Kind
from fedapt.seeding import numpy_stream, stream_key

Positive = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]]


@dataclass(frozen=True)
class Task:
    """What is to be shared out, among how many clients: labels (n,) int64, and further columns (n,) of numbers by name."""

    labels: npt.NDArray[np.int64]
    clients: int
    seed: int
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Partition(Kind):
    """The options of one partitioner."""

    @abstractmethod
    def arguments(self, task: Task) -> dict[str, Any]:
        """Return what the partitioner is made with."""

    @property
    def column(self) -> str | None:
        """The column it looks at: `label`, `client`, the name of another one, or None."""
        return None


class _ByLabel(Partition):
    @property
    def column(self) -> str | None:
        return "label"

    def arguments(self, task: Task) -> dict[str, Any]:
        options = self.model_dump(exclude={"kind"}, exclude_none=True)
        return {"num_partitions": task.clients, "partition_by": self.column, "seed": _seed(task), **options}


class _BySize(Partition):
    def arguments(self, task: Task) -> dict[str, Any]:
        return {"num_partitions": task.clients}


class Iid(_BySize):
    """Equal parts at random."""

    kind: Literal["iid"] = "iid"


class Linear(_BySize):
    """Client k gets a share in proportion to k + 1."""

    kind: Literal["linear"] = "linear"


class Square(_BySize):
    """Client k gets a share in proportion to (k + 1) squared."""

    kind: Literal["square"] = "square"


class Exponential(_BySize):
    """Client k gets a share in proportion to exp(k + 1): for a dozen clients at most."""

    kind: Literal["exponential"] = "exponential"


class Size(Partition):
    """Clients of given sizes; what is left over is not used."""

    kind: Literal["size"] = "size"
    partition_sizes: list[Positive] = Field(description="samples of each client")

    def arguments(self, task: Task) -> dict[str, Any]:
        return {"partition_sizes": _sizes(self.partition_sizes, task)}


class Dirichlet(_ByLabel):
    """Each class is divided among the clients by a Dirichlet draw (arXiv:1905.12022); some clients may get nothing."""

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: Alpha = Field(
        0.3, description="concentration, one or one for each client; the smaller, the less alike are the clients"
    )
    min_partition_size: int = Field(0, ge=0, description="fewest samples of a client; drawn again up to ten times")
    self_balancing: bool = Field(False, description="whether a client above the average size gets no further classes")


class InnerDirichlet(_ByLabel):
    """Clients of given sizes, the classes of each from a Dirichlet draw (arXiv:2111.04263)."""

    kind: Literal["inner_dirichlet"] = "inner_dirichlet"
    partition_sizes: list[Annotated[int, Field(ge=0)]] | None = Field(None, description="samples of each client; null: equal")
    alpha: Alpha = Field(0.3, description="concentration, one or one for each class; the smaller, the less alike are the clients")

    def arguments(self, task: Task) -> dict[str, Any]:
        options = super().arguments(task)
        del options["num_partitions"]
        equal = [len(task.labels) // task.clients] * task.clients
        return {**options, "partition_sizes": _sizes(self.partition_sizes or equal, task)}


class Pathological(_ByLabel):
    """Every client has the same number of classes (arXiv:2102.02079)."""

    kind: Literal["pathological"] = "pathological"
    num_classes_per_partition: Positive = Field(2, description="classes of each client")
    class_assignment_mode: Literal["random", "deterministic", "first-deterministic"] = Field(
        "random", description="how classes come to clients"
    )


class Shard(_ByLabel):
    """The samples, sorted by class, are cut into shards, and every client gets some at random (McMahan et al., 2017)."""

    kind: Literal["shard"] = "shard"
    num_shards_per_partition: Positive | None = Field(None, description="shards of each client; null: two, or as shard_size says")
    shard_size: Positive | None = Field(None, description="samples of a shard; null: as large as the data allows")
    keep_incomplete_shard: bool = Field(False, description="whether a last, smaller shard is used too")

    def arguments(self, task: Task) -> dict[str, Any]:
        default = {"num_shards_per_partition": 2} if self.shard_size is None else {}
        return {**default, **super().arguments(task)}


class Distribution(_ByLabel):
    """Few classes a client, in very unequal amounts, as in FedProx (arXiv:1812.06127); clients: a multiple of the classes."""

    kind: Literal["distribution"] = "distribution"
    distribution_array: list[list[Annotated[float, Field(ge=0)]]] | None = Field(
        None, description="for each class, how much of it each client gets that has it; null: log-normal with sigma 2"
    )
    num_unique_labels_per_partition: Positive = Field(2, description="classes of each client")
    preassigned_num_samples_per_label: int = Field(
        5, ge=0, description="samples of each of its classes that a client has at least"
    )
    rescale: bool = Field(True, description="whether the array holds proportions rather than numbers of samples")

    def arguments(self, task: Task) -> dict[str, Any]:
        classes = len(np.unique(task.labels))
        shape = (classes, self.num_unique_labels_per_partition * task.clients // classes)
        drawn = numpy_stream(task.seed, "data.partition.distribution").lognormal(0.0, 2.0, shape)
        array = drawn if self.distribution_array is None else np.array(self.distribution_array)
        return {**super().arguments(task), "distribution_array": array}


class Continuous(_ByLabel):
    """The samples, sorted by a column of numbers and blurred by noise, are cut into equal parts."""

    kind: Literal["continuous"] = "continuous"
    partition_by: str = Field("label", description="the column of numbers; label: the class's number")
    strictness: float = Field(0.5, ge=0, le=1, description="0: at random, 1: strictly sorted")

    @property
    def column(self) -> str | None:
        return self.partition_by


class _ByClient(Partition):
    @property
    def column(self) -> str | None:
        return "client"

    def arguments(self, task: Task) -> dict[str, Any]:
        return {"partition_by": self.column, **self.model_dump(exclude={"kind"})}


class NaturalId(_ByClient):
    """One client for each value of columns.client; a random choice of them where there are more than clients."""

    kind: Literal["natural_id"] = "natural_id"


class GroupedNaturalId(_ByClient):
    """One client for each group of values of columns.client."""

    kind: Literal["grouped_natural_id"] = "grouped_natural_id"
    group_size: Positive = Field(description="values in a group")
    mode: Literal["allow-smaller", "allow-bigger", "drop-reminder", "strict"] = Field(
        "allow-smaller", description="what becomes of a last group that is not full"
    )
    sort_unique_ids: bool = Field(False, description="whether groups are made of neighbouring values rather than at random")


def _seed(task: Task) -> int:
    return stream_key(task.seed, "data.partition")


def _sizes(sizes: list[int], task: Task) -> list[int]:
    if len(sizes) != task.clients:
        raise ValueError(f"`partition_sizes` has {len(sizes)} entries, not {task.clients}; give one for each client")
    return sizes


PARTITIONS: dict[str, type[Partition]] = {
    "iid": Iid,
    "dirichlet": Dirichlet,
    "inner_dirichlet": InnerDirichlet,
    "pathological": Pathological,
    "shard": Shard,
    "linear": Linear,
    "square": Square,
    "exponential": Exponential,
    "size": Size,
    "distribution": Distribution,
    "continuous": Continuous,
    "natural_id": NaturalId,
    "grouped_natural_id": GroupedNaturalId,
}


def spelled_out(value: Any) -> Any:
    """Return a bare name as the block that it is short for."""
    return {"kind": value} if isinstance(value, str) else value


if TYPE_CHECKING:
    AnyPartition = Partition
else:
    _BLOCK = Annotated[Union[tuple(PARTITIONS.values())], Field(discriminator="kind")]  # noqa: UP007
    _NAME_OR_BLOCK = Union[Literal[tuple(PARTITIONS)], _BLOCK]  # noqa: UP007
    AnyPartition = Annotated[_BLOCK, BeforeValidator(spelled_out, json_schema_input_type=_NAME_OR_BLOCK)]
