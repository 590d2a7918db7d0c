"""What a strategy remembers from round to round, taken from the object and put into a freshly built one.

It is the attributes that have changed since the strategy was built. A strategy that keeps anything but plain data there may
define `state_dict()`, which returns plain data, and `load_state_dict(state)`.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import numpy as np

from fedapt.record.plain import pack


def state_of(strategy: object, fresh: object) -> dict[str, Any]:
    """Return the plain data that `strategy` holds and `fresh`, built from the same options, does not; raises NotPlain."""
    if hasattr(strategy, "state_dict") and hasattr(strategy, "load_state_dict"):
        state = dict(strategy.state_dict())
    else:
        built = vars(fresh)
        state = {
            name: value for name, value in vars(strategy).items() if name not in built or not _same(name, value, built[name])
        }
    for name, value in state.items():
        pack(value, {}, name)
    return state


def restore(strategy: object, state: dict[str, Any]) -> None:
    """Give a freshly built strategy what another one held."""
    if hasattr(strategy, "state_dict") and hasattr(strategy, "load_state_dict"):
        strategy.load_state_dict(state)
        return
    for name, value in state.items():
        setattr(strategy, name, value)


def _same(name: str, value: Any, built: Any) -> bool:
    if value is built:
        return True
    if isinstance(value, FunctionType) and isinstance(built, FunctionType) and value.__closure__ is None:
        # A function that remembers nothing; what a closure holds cannot be seen.
        return value.__code__ is built.__code__
    ours: dict[str, np.ndarray] = {}
    theirs: dict[str, np.ndarray] = {}
    return bool(pack(value, ours, name) == pack(built, theirs, name)) and all(
        array.dtype == theirs[place].dtype and array.shape == theirs[place].shape and array.tobytes() == theirs[place].tobytes()
        for place, array in ours.items()
    )
