"""Strategies of the user's own in a scenario: `strategy: {kind: "my_module:MyStrategy", option: value}`.

`MyStrategy` is a Flower strategy, and its options are the arguments of its constructor; or it is a StrategyOptions, which says
for itself whether it is linear and how many updates it needs. Only modules that `--plugin` has named are looked into.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

import flwr.serverapp.strategy as flower
from pydantic import create_model

from fedapt.options import Kind
from fedapt.plugins.arguments import as_field, is_plain, parameters_of
from fedapt.plugins.loading import plugged_modules
from fedapt.reading.explain import suggest
from fedapt.strategies.strategy import StrategyOptions

# Who takes part is the scenario's `clients.select`: a strategy addresses all whom the Gateway shows it.
WHOLE_COHORT = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}
# The names under which the Gateway's replies hold things are its own.
NOT_OPTIONS = {*WHOLE_COHORT, "weighted_by_key", "arrayrecord_key", "configrecord_key", "train_loss_key"}


class PluggedStrategies:
    """Finds the options of a kind that is written as `module:Class`."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], type[StrategyOptions]] = {}

    def options(self, kind: str) -> type[Kind]:
        """Return the options of a kind; raises ValueError with a sentence if there are none."""
        where, _, name = kind.partition(":")
        modules = plugged_modules()
        if where not in modules:
            known = f" ({near})" if modules and (near := suggest(where, modules)).startswith("did") else ""
            raise ValueError(
                f"`{kind}` is code, which a scenario alone may not name{known};"
                f" if you trust it, add `--plugin {where}` to the command line"
            )
        target = getattr(modules[where], name, None)
        if target is None:
            raise ValueError(f"the module {where} has no `{name}`; {suggest(name, _classes(modules[where]), 'it has')}")
        # A module may have been loaded anew.
        if (kind, id(target)) not in self._found:
            self._found[kind, id(target)] = _options(kind, target)
        return self._found[kind, id(target)]

    def known(self) -> Mapping[str, type[Kind]]:
        """Return the options of every strategy that the named modules offer."""
        return {
            f"{where}:{name}": self.options(f"{where}:{name}")
            for where, module in plugged_modules().items()
            for name, target in _classes(module).items()
            if not inspect.isabstract(target) and not _unheld(target)
        }


def _classes(module: ModuleType) -> dict[str, type]:
    """Return the strategies, and options of strategies, that a module defines."""
    bases = (flower.Strategy, StrategyOptions)
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    kinds = {name: value for name, value in public.items() if isinstance(value, type) and issubclass(value, bases)}
    # Not what it has imported from elsewhere, unless that is a part of it.
    own = f"{module.__name__}."
    return {name: value for name, value in kinds.items() if value not in bases and f"{value.__module__}.".startswith(own)}


def _options(kind: str, target: Any) -> type[StrategyOptions]:
    if isinstance(target, type) and issubclass(target, StrategyOptions):
        return _model(target, kind, target.__doc__ or "", {})
    if not isinstance(target, type) or not issubclass(target, flower.Strategy):
        old = isinstance(target, type) and any(base.__module__.startswith("flwr.server.strategy") for base in target.__mro__)
        what = "a strategy of Flower's old interface" if old else "no Flower strategy"
        raise ValueError(f"`{kind}` is {what}; expected a class that derives from flwr.serverapp.strategy.Strategy")
    if missing := sorted(getattr(target, "__abstractmethods__", ())):
        raise ValueError(f"`{kind}` lacks {', '.join(missing)}, which every Flower strategy has; define it in the class")
    if unheld := _unheld(target):
        raise ValueError(
            f"`{kind}` cannot be built from a scenario: its argument `{unheld}` is not plain data;"
            " give it a default, or derive a class that sets it"
        )
    parameters = parameters_of(target)
    fields = {name: field for name, parameter in parameters.items() if _free(name) and (field := as_field(parameter))}

    def build(self: StrategyOptions) -> flower.Strategy:
        return _built(self, target, parameters, fields)

    base = type(f"Plugged{target.__name__}", (StrategyOptions,), {"build": build, "__module__": __name__})
    return _model(base, kind, f"`{kind}`, a plug-in.", fields)


def _model(base: type[StrategyOptions], kind: str, about: str, fields: Mapping[str, Any]) -> type[StrategyOptions]:
    named: dict[str, Any] = {"kind": (Literal[kind], kind), **fields}
    model: type[StrategyOptions] = create_model(kind.partition(":")[2], __base__=base, __doc__=about, **named)
    return model


def _built(options: StrategyOptions, target: type, parameters: Mapping[str, Any], fields: Mapping[str, Any]) -> flower.Strategy:
    """Call the constructor with the options that are not its defaults anyway: a subclass may fix one that it passes on."""
    own = _own_arguments(target)
    given: dict[str, Any] = {name: value for name, value in WHOLE_COHORT.items() if name in own}
    for name in fields:
        default, value = parameters[name].default, getattr(options, name)
        if default is inspect.Parameter.empty or value != default:
            given[name] = copy.deepcopy(value)
    strategy: flower.Strategy = target(**given)
    for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        # With more than the cohort has, Flower would wait for them for ever.
        if name not in given and is_plain(getattr(strategy, name, None)) and hasattr(strategy, name):
            setattr(strategy, name, 1)
    return strategy


def _own_arguments(target: type) -> set[str]:
    """Return the arguments that the constructor names itself, and does not only pass on."""
    return set(inspect.signature(target).parameters)


def _free(name: str) -> bool:
    """Return whether an argument's name can be a key of the scenario's block."""
    return name not in NOT_OPTIONS and not name.startswith("_") and name != "kind" and not hasattr(StrategyOptions, name)


def _unheld(target: type) -> str:
    """Return the first argument that the constructor needs and a scenario cannot give; "" if there is none."""
    if issubclass(target, StrategyOptions):
        return ""
    needed = {name: parameter for name, parameter in parameters_of(target).items() if parameter.default is parameter.empty}
    return next((name for name, parameter in needed.items() if not _free(name) or as_field(parameter) is None), "")
