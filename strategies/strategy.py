"""The contract of a strategy in a scenario: options that build a Flower `Strategy`, and what that strategy claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fedapt.options import Kind

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy

WHOLE_COHORT: dict[str, Any] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}


class StrategyOptions(Kind):
    """The `strategy:` block of a scenario. What it claims, `tests/strategies/test_exam.py` tries.

    linear: the strategy uses nothing of the replies but their weighted mean. It is then handed one reply, the exact mean with the
    summed weight, and the memory it needs does not grow with the cohort. All others need all updates of a round at once.
    corrects: its messages carry a correction, which clients add to the gradient of every step and keep for the round.
    asynchronous: it is made for updates of which some are stale.
    keeps_clients: it remembers something of every client that ever answered, as large as the model.
    faithful: updates that are all the same, and small, give that update.
    by_coordinate: it keeps the middle of each weight's updates: of those in few codes, most of which are 0, that is 0.
    scales: updates of a multiple of their size give that multiple of the step.
    withstands: attacks by up to `tolerates` clients, despite which a step is within `deviation` of the honest mean.
    """

    linear: ClassVar[bool] = False
    corrects: ClassVar[bool] = False
    asynchronous: ClassVar[bool] = False
    keeps_clients: ClassVar[bool] = False
    faithful: ClassVar[bool] = True
    by_coordinate: ClassVar[bool] = False
    scales: ClassVar[bool] = True
    withstands: ClassVar[frozenset[str]] = frozenset()

    @property
    def least_updates(self) -> int:
        """How many updates the rule needs to be what it is called; a round with fewer is empty."""
        return 1

    def tolerates(self, updates: int) -> int:
        """Return how many of a round's updates may be anything at all."""
        return 0

    def deviation(self, honest: np.ndarray, byzantine: int) -> float:
        """Return how far from the honest updates' mean a step can be, whatever the others are; honest: (updates, weights)."""
        return float("inf")

    def build(self, **flower: Any) -> Strategy:
        """Return a new Flower strategy that trains and evaluates on every node it is shown.

        flower: in an app without fedapt's Gateway, arguments of Flower's FedAvg, such as `fraction_train`.
        """
        raise NotImplementedError
