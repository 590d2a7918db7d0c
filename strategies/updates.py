"""What clients sent, checked and typed: replies become updates in the order of their nodes, whatever the order of arrival."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message, RecordDict

from fedapt.errors import RunFailed

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Update:
    """One client's update. delta: trained minus global model, float64 arrays by name; samples: its weight."""

    client: int
    delta: Arrays
    samples: float
    metrics: Mapping[str, float]

    def metric(self, name: str, strategy: str) -> float:
        """Return a metric that a strategy cannot do without; raises RunFailed if the client sent none."""
        if name not in self.metrics:
            raise RunFailed(
                f"{strategy} needs the metric `{name}` in every reply, and client {self.client} sent only"
                f" {', '.join(sorted(self.metrics))}: let the client add `{name}` to its MetricRecord."
            )
        return self.metrics[name]

    @property
    def norm(self) -> float:
        """The Euclidean length of the update over all of its arrays."""
        return math.sqrt(math.fsum(float(np.square(values).sum()) for values in self.delta.values()))


def read_updates(
    replies: Iterable[Message], model: Arrays, weighted_by: str, *, repeats: bool, refused: Callable[[str], None]
) -> list[tuple[Update, RecordDict]]:
    """Return the updates that can be used, by node, each with its content; what is wrong with others to `refused`.

    repeats: a node may have answered more than once, and the stalest of its answers comes first.
    """
    read: list[tuple[Update, RecordDict]] = []
    for reply in replies:
        client = reply.metadata.src_node_id
        if reply.has_error():
            refused(f"client {client} failed: {reply.error.reason}")
            continue
        update = _read(client, reply.content, model, weighted_by)
        if isinstance(update, Update):
            read.append((update, reply.content))
        else:
            refused(f"the reply of client {client} is left out: {update}")
    if not repeats:
        # Which of a node's answers counted would depend on their order.
        times = Counter(update.client for update, _ in read)
        for client in sorted(client for client, count in times.items() if count > 1):
            refused(f"client {client} answered {times[client]} times in one round and is left out")
        read = [(update, content) for update, content in read if times[update.client] == 1]
    return sorted(read, key=lambda pair: (pair[0].client, -pair[0].metrics.get("staleness", 0.0)))


def _read(client: int, content: RecordDict, model: Arrays, weighted_by: str) -> Update | str:
    """Return an update, or what is wrong with it."""
    if len(content.array_records) != 1 or len(content.metric_records) != 1:
        return "expected one ArrayRecord and one MetricRecord"
    arrays = {name: array.numpy() for name, array in next(iter(content.array_records.values())).items()}
    numbers = next(iter(content.metric_records.values()))
    metrics = {name: value for name, value in numbers.items() if isinstance(value, (int, float))}
    if arrays.keys() != model.keys():
        return f"its arrays are {', '.join(sorted(arrays)) or 'none'}; expected {', '.join(sorted(model))}"
    for name, values in arrays.items():
        if values.shape != model[name].shape:
            return f"{name} has the shape {values.shape}; expected {model[name].shape}"
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            return f"{name} is not made of finite numbers"
    samples = metrics.get(weighted_by, 0)
    if not (math.isfinite(samples) and samples > 0):
        return f"its metric `{weighted_by}` is {metrics.get(weighted_by, 'missing')}; expected a number above 0"
    if odd := [name for name, value in metrics.items() if not math.isfinite(value)]:
        return f"its metric `{odd[0]}` is {metrics[odd[0]]}"
    delta = {name: np.subtract(arrays[name], values, dtype=np.float64) for name, values in model.items()}
    return Update(client, delta, samples, metrics)


def weighted_mean(updates: Sequence[Update], weights: Iterable[float]) -> Arrays:
    """Return the mean of the updates with weights that are not all zero, summed in their order."""
    listed = list(weights)
    total = math.fsum(listed)
    return weighted_sum(updates, [weight / total for weight in listed])


def weighted_sum(updates: Sequence[Update], weights: Sequence[float]) -> Arrays:
    """Return the sum of weight times update, in their order."""
    step = {name: np.zeros(values.shape) for name, values in updates[0].delta.items()}
    for update, weight in zip(updates, weights, strict=True):
        for name, values in update.delta.items():
            step[name] += weight * values
    return step


def by_coordinate(updates: Sequence[Update], rule: Callable[[np.ndarray], np.ndarray]) -> Arrays:
    """Apply a rule to each array of all updates, stacked as (updates, ...); it returns one of them."""
    return {name: np.asarray(rule(np.stack([update.delta[name] for update in updates]))) for name in updates[0].delta}


def as_rows(updates: Sequence[Update]) -> np.ndarray:
    """Return the updates as vectors, (updates, weights)."""
    return np.stack([np.concatenate([np.ravel(values) for values in update.delta.values()]) for update in updates])


def as_arrays(row: np.ndarray, like: Arrays) -> Arrays:
    """Return a vector of `as_rows` as arrays again."""
    ends = np.cumsum([values.size for values in like.values()])[:-1]
    return {name: part.reshape(like[name].shape) for name, part in zip(like, np.split(row, ends), strict=True)}
