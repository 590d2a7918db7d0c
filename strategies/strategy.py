"""The contract of a strategy in a scenario: options that build a Flower `Strategy`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fedapt.options import Kind

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy


class StrategyOptions(Kind):
    """The `strategy:` block of a scenario.

    linear: the strategy uses nothing of the replies but their weighted mean. It is then handed one reply, the exact mean with the
    summed weight, and the memory it needs does not grow with the cohort.
    """

    linear: ClassVar[bool] = False

    @property
    def least_updates(self) -> int:
        """How many updates the rule needs to be what it is called; a round with fewer is empty."""
        return 1

    def build(self) -> Strategy:
        """Return a new Flower strategy that trains and evaluates on every node that the Gateway shows it."""
        raise NotImplementedError
