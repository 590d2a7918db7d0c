"""A strategy's messages as work for clients, and what came of it as replies: all that a strategy sends and sees is made here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedapt.errors import RunFailed
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import TRAIN, instruction
from fedapt.grid.visit import Arrays, Outcome

CORRECTION = "correction"
AVERAGED = ("train_loss", "lr", "mean_bits")

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Order:
    """What a strategy asks of one client. correction: what it adds to its gradients, by parameter name; None if nothing."""

    client: int
    proximal_mu: float = 0.0
    correction: Arrays | None = None


@dataclass(frozen=True, eq=False)
class _Content:
    """What any number of messages say. content: kept, so that no two have one identity."""

    content: RecordDict
    model: ArrayRecord
    proximal_mu: float
    correction: ArrayRecord | None


def broadcasts(messages: Iterable[Message]) -> Iterator[tuple[Arrays, str, list[Order]]]:
    """Group a strategy's messages by the model that they carry, for it crosses to the workers once, and by their type.

    Raises RunFailed for a correction that does not fit its model.
    """
    models: dict[int, bytes] = {}
    contents: dict[int, _Content] = {}
    groups: dict[tuple[bytes, str], tuple[ArrayRecord, list[tuple[int, _Content]]]] = {}
    for message in messages:
        content, to = message.content, message.metadata
        if id(content) not in contents:
            contents[id(content)] = _read(content)
        read = contents[id(content)]
        if id(read.model) not in models:
            models[id(read.model)] = _fingerprint(read.model)
        key = (models[id(read.model)], to.message_type)
        groups.setdefault(key, (read.model, []))[1].append((to.dst_node_id, read))
    for (_, kind), (model, same) in groups.items():
        arrays = _arrays(model)
        yield arrays, kind, sorted((_order(client, one, arrays) for client, one in same), key=lambda order: order.client)


def all_corrected(arrays: Arrays, orders: Sequence[Order]) -> list[Order]:
    """Return the orders with a correction of zeros where there is none."""
    zeros = {name: np.zeros(values.shape, np.float32) for name, values in arrays.items()}
    return [replace(order, correction=zeros) if order.correction is None else order for order in orders]


def update_replies(arrays: Arrays, trained: Sequence[Outcome], metrics: Sequence[Metrics]) -> list[Message]:
    """Return one reply for each client that trained, each with arrays of its own: some strategies take them apart.

    A reply is a whole model. Where its client did not train an element, it has the mean over those that did, by their samples, so
    that the mean over all replies is the mean over them; where nobody did, what the global model has. To a rule that bounds what
    a few liars can do, those that did not train repeat what others said: for such an element the bound holds if the liars among
    those that did train it are as few, compared with them, as the rule asks.
    """
    pairs = zip(trained, metrics, strict=True)
    usable = [(outcome, told) for outcome, told in pairs if outcome.update is not None and told["num-examples"]]
    others = arrays if all(outcome.part is None for outcome, _ in usable) else _mean_of_trained(arrays, usable)
    return [reply_of(outcome.client, TRAIN, _completed(arrays, others, outcome), told) for outcome, told in usable]


def _mean_of_trained(arrays: Arrays, usable: Sequence[tuple[Outcome, Metrics]]) -> Arrays:
    """Return the model with each element's mean over the clients that trained it."""
    totals = {name: np.zeros(values.shape) for name, values in arrays.items()}
    weights = {name: np.zeros(values.shape) for name, values in arrays.items()}
    for outcome, told in usable:
        for name, (place, values) in _placed(outcome, arrays).items():
            totals[name][place] += told["num-examples"] * values.astype(np.float64)
            weights[name][place] += told["num-examples"]
    return {name: (arrays[name] + totals[name] / np.maximum(weights[name], 1)).astype(np.float32) for name in arrays}


def _completed(arrays: Arrays, others: Arrays, outcome: Outcome) -> dict[str, np.ndarray]:
    """Return the model that a client has trained, with what it did not train as in `others`."""
    update = outcome.update or {}
    if outcome.part is None:
        return {name: values + update[name] for name, values in arrays.items()}
    model = {name: np.array(values) for name, values in others.items()}
    for name, (place, values) in _placed(outcome, arrays).items():
        model[name][place] = arrays[name][place] + values
    return model


def _placed(outcome: Outcome, arrays: Arrays) -> dict[str, tuple[Any, np.ndarray]]:
    """Return each array of an update, and where it lies in that of the model."""
    slices = outcome.part.slices(arrays) if outcome.part else dict.fromkeys(arrays)
    update = outcome.update or {}
    return {name: (some.index() if some else ..., update[name]) for name, some in slices.items()}


def mean_reply(arrays: Arrays, trained: Sequence[Outcome], metrics: Sequence[Metrics], total: ExactSum) -> list[Message]:
    """Return one reply that stands for all: model plus exact mean update, with the summed weight and steps.

    Its variance is counted as if all had trained all of the model.
    """
    if not total.weight:
        return []
    mean = total.mean(arrays)
    model = {name: (values + mean[name]).astype(np.float32) for name, values in arrays.items()}
    shares = [told["num-examples"] / total.weight for told in metrics]
    variance = math.fsum(share**2 * told["update_variance"] for share, told in zip(shares, metrics, strict=True))
    square = math.fsum(float(np.square(values, dtype=np.float64).sum()) for values in mean.values())
    told = {
        "num-examples": total.weight,
        "steps": sum(int(one["steps"]) for one in metrics),
        **{name: math.fsum(share * one[name] for share, one in zip(shares, metrics, strict=True)) for name in AVERAGED},
        "update_variance": variance,
        "relative_error": variance / square if square else float(variance > 0),
        "staleness": max(int(one["staleness"]) for one in metrics),
    }
    return [reply_of(trained[0].client, TRAIN, model, told)]


def reply_of(client: int, kind: str, model: Arrays, metrics: Metrics) -> Message:
    """Return a Flower reply as if it came from the client."""
    content = RecordDict({"metrics": MetricRecord(dict(metrics))})
    if model:
        content["arrays"] = ArrayRecord({name: Array(values) for name, values in model.items()})
    return Message(content=content, reply_to=instruction(RecordDict(), kind, client))


def _read(content: RecordDict) -> _Content:
    """Return what a message says; the model is found whatever the strategy calls it."""
    records = dict(content.array_records)
    correction = records.pop(CORRECTION, None)
    config = next(iter(content.config_records.values()), ConfigRecord())
    proximal_mu = float(config.get("proximal-mu", 0.0))  # type: ignore[arg-type]
    return _Content(content, next(iter(records.values())), proximal_mu, correction)


def _order(client: int, told: _Content, arrays: Arrays) -> Order:
    if told.correction is None:
        return Order(client, told.proximal_mu)
    return Order(client, told.proximal_mu, _correction(told.correction, arrays, client))


def _correction(record: ArrayRecord, arrays: Arrays, client: int) -> Arrays:
    correction = {name: np.asarray(values, np.float32) for name, values in _arrays(record).items()}
    shapes, wanted = ({name: values.shape for name, values in some.items()} for some in (correction, arrays))
    wrong = [name for name in sorted({*shapes, *wanted}) if shapes.get(name) != wanted.get(name)]
    if wrong:
        fault = f"{wrong[0]} has shape {shapes.get(wrong[0], 'none')}, and in the model {wanted.get(wrong[0], 'none')}"
        raise RunFailed(
            f"the strategy's correction for client {client} does not fit its model: {fault}; give both the same arrays"
        )
    if wrong := [name for name, values in correction.items() if not np.isfinite(values).all()]:
        raise RunFailed(f"the strategy's correction for client {client} is not finite in {wrong[0]}; its state has diverged")
    return correction


def _arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: np.asarray(array.numpy()) for name, array in record.items()}


def _fingerprint(record: ArrayRecord) -> bytes:
    """Return what only records of equal content share."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in record.items():
        digest.update(f"{name}:{array.dtype}:{array.shape}:{array.stype}:{len(array.data)}:".encode())
        digest.update(array.data)
    return digest.digest()
