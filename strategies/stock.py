"""Flower's own strategies, unchanged: their options are the arguments of their constructors.

Sampling is not theirs here: the Gateway shows them only the cohort of the round, and they take all of it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal

import flwr.serverapp.strategy as flower
from pydantic import create_model

from fedapt.strategies.strategy import StrategyOptions

WHOLE_COHORT: dict[str, Any] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}
NOT_OPTIONS = {*WHOLE_COHORT, "weighted_by_key", "arrayrecord_key", "configrecord_key", "train_loss_key", "selection_rule"}
NOT_OPTIONS |= {"train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"}


def stock(
    strategy: type[flower.Strategy], *, linear: bool = False, least: Callable[[Any], int] = lambda options: 1
) -> type[StrategyOptions]:
    """Return the options of a Flower strategy, read from its constructor; the scenario calls it by its name in lower case.

    least: how many updates it needs, given its options.
    """
    name = strategy.__name__
    options: dict[str, Any] = {}
    for parameter in inspect.signature(strategy).parameters.values():
        if parameter.name not in NOT_OPTIONS:
            options[parameter.name] = (parameter.annotation, ... if parameter.default is parameter.empty else parameter.default)

    def build(self: StrategyOptions) -> flower.Strategy:
        return strategy(**WHOLE_COHORT, **{key: getattr(self, key) for key in options})

    body = {"linear": linear, "build": build, "least_updates": property(least), "__module__": __name__}
    base = type(f"Stock{name}", (StrategyOptions,), body)
    return create_model(name, __base__=base, __doc__=f"Flower's {name}.", kind=(Literal[name.lower()], name.lower()), **options)  # type: ignore[arg-type]


def least_to_trim(beta: float) -> int:
    """Return the fewest updates of which a trimmed mean drops one at each end: of fewer it is a plain mean."""
    if beta <= 0:
        return 1
    fewest = math.ceil(1 / beta)
    return fewest if int(beta * fewest) else fewest + 1
