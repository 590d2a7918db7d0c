"""Rounds by hand: a strategy is sent updates as the Gateway would send them, and answers with the next model."""

from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import TRAIN, instruction

METRICS = {
    "train_loss": 1.0,
    "steps": 4,
    "lr": 0.1,
    "mean_bits": 8.0,
    "update_variance": 0.0,
    "relative_error": 0.0,
    "staleness": 0,
}


@dataclass
class Sent:
    """What one client sends: its update, float32 arrays by name (or one array, called w), and its metrics."""

    client: int
    delta: dict | np.ndarray | list
    samples: int = 1
    metrics: dict = field(default_factory=dict)

    def arrays(self):
        delta = self.delta if isinstance(self.delta, dict) else {"w": self.delta}
        return {name: np.asarray(values, np.float32) for name, values in delta.items()}


class Cohort:
    """As much of a Grid as a strategy needs to address its nodes."""

    def __init__(self, nodes):
        self.nodes = list(nodes)

    def get_node_ids(self):
        return self.nodes


def reply(client, arrays, metrics):
    content = RecordDict({"arrays": record(arrays), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=instruction(RecordDict(), TRAIN, client))


def record(arrays):
    return ArrayRecord({name: Array(np.asarray(values)) for name, values in arrays.items()})


def replies(model, sent, linear=False):
    """Return the Gateway's replies: one for each client, or for a linear strategy one exact mean."""
    if not linear or not sent:
        return [
            reply(
                one.client,
                {name: values + one.arrays()[name] for name, values in model.items()},
                {"num-examples": one.samples} | METRICS | one.metrics,
            )
            for one in sent
        ]
    total = ExactSum()
    for one in sent:
        total.add(one.arrays(), one.samples)
    means = total.mean(model)
    mean = {name: (values + means[name]).astype(np.float32) for name, values in model.items()}
    return [reply(min(one.client for one in sent), mean, {"num-examples": total.weight, "train_loss": 1.0})]


def addressed(strategy, model, clients, number=1):
    """Let a strategy send its messages; return them by client."""
    messages = strategy.configure_train(number, record(model), ConfigRecord(), Cohort(clients))
    return {message.metadata.dst_node_id: message.content for message in messages}


def play_round(strategy, model, sent, linear=False, number=1):
    """Return the next model, float32 arrays by name; None if the round changed nothing."""
    addressed(strategy, model, sorted({one.client for one in sent}) or [0], number)
    arrays, _ = strategy.aggregate_train(number, replies(model, sent, linear))
    return None if arrays is None else {name: array.numpy() for name, array in arrays.items()}


def step(options, sent, rounds=1, linear=None):
    """Return by how much a new strategy moves a model of zeros, as float64; the same updates come in each of the rounds."""
    linear = options.linear if linear is None else linear
    strategy, model = options.build(), {name: np.zeros_like(values) for name, values in sent[0].arrays().items()}
    for number in range(rounds):
        model = play_round(strategy, model, sent, linear, number + 1)
    moved = {name: values.astype(np.float64) for name, values in model.items()}
    return moved["w"] if list(moved) == ["w"] else moved


def as_vector(arrays):
    return np.concatenate([np.ravel(arrays[name]).astype(np.float64) for name in sorted(arrays)])


def flowers(strategy, model, sent, number=1):
    """Return by how much a strategy of Flower's moves a model, as float64; it may take the replies apart."""
    after = play_round(strategy, model, sent, number=number)
    return None if after is None else {name: after[name].astype(np.float64) - values for name, values in model.items()}
