"""The base of fedapt's own strategies: a Flower strategy around one function from updates to a step.

Everything a plain Flower app expects is Flower's FedAvg: sampling, messages, evaluation. Only what becomes of the replies is
not. Updates are in the order of their nodes and in float64, so that no bit depends on who answered first. Replies that cannot
be used are left out with a sentence; with fewer updates than the rule needs the round changes nothing, with a sentence.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from fedapt.errors import RunFailed
from fedapt.strategies.strategy import StrategyOptions
from fedapt.strategies.updates import Arrays, Update, read_updates

log = logging.getLogger(__name__)


class Aggregation(FedAvg):
    """A strategy that is one rule, `combine`.

    memory: all that it knows from earlier rounds, plain data; replaced, never changed in place.
    """

    def __init__(self, options: StrategyOptions, **flower: Any) -> None:
        super().__init__(**flower)
        self.options = options
        self.memory: dict[str, Any] = {}
        self._model: Arrays = {}

    def combine(self, updates: Sequence[Update]) -> Arrays:
        """Return the step from one global model to the next, float64 by name, and remember what the next round needs."""
        raise NotImplementedError

    def told(self) -> Mapping[str, float]:
        """Return what clients are told besides the model, by its key in the config."""
        return {}

    def correction(self, client: int) -> Arrays | None:
        """Return what a client adds to the gradient of every step, None for nothing."""
        return None

    def aggregate(self, model: Arrays, updates: Sequence[Update]) -> Arrays:
        """Return the next global model, of the shapes and dtypes of this one."""
        step = self.combine(updates)
        return {name: _like(values, values + step[name]) for name, values in model.items()}

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Address the nodes as FedAvg does, each with its correction."""
        self._model = {name: array.numpy() for name, array in arrays.items()}
        told = ConfigRecord({**config, **self.told()})
        return [self._corrected(message) for message in super().configure_train(server_round, arrays, told, grid)]

    def _corrected(self, message: Message) -> Message:
        to = message.metadata
        correction = self.correction(to.dst_node_id)
        if correction is None:
            return message
        record = ArrayRecord({name: Array(np.asarray(values, np.float32)) for name, values in correction.items()})
        content = RecordDict({**message.content, "correction": record})
        return Message(content=content, message_type=to.message_type, dst_node_id=to.dst_node_id)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the next model and the clients' mean metrics; None and None if the rule has too few updates."""
        if not self._model:
            raise RunFailed(f"{self.options.kind} does not know the model: call configure_train before aggregate_train.")
        read = read_updates(replies, self._model, self.weighted_by_key, repeats=self.options.asynchronous, refused=log.warning)
        if len(read) < self.options.least_updates:
            log.warning(
                f"round {server_round} changes nothing: {self.options.kind} needs {self.options.least_updates} updates"
                f" and got {len(read)}"
            )
            return None, None
        arrays = self.aggregate(self._model, [update for update, _ in read])
        metrics = self.train_metrics_aggr_fn([content for _, content in read], self.weighted_by_key)
        return ArrayRecord({name: Array(values) for name, values in arrays.items()}), metrics

    def state_dict(self) -> dict[str, Any]:
        """Return what the next round needs, as plain data."""
        return dict(self.memory)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another strategy of the same options remembered."""
        self.memory = dict(state)


def _like(model: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values in a model's dtype; what overflows it becomes infinite, which the caller refuses."""
    whole = np.rint(values) if model.dtype.kind in "biu" else values
    with np.errstate(over="ignore"):
        return np.asarray(whole).astype(model.dtype)
