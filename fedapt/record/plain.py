"""Plain data as JSON and arrays, without pickle: None, bool, numbers, text, lists, tuples, dicts, numpy arrays, ArrayRecords.

What comes back is equal to the last bit and of the same types. Reading makes nothing but these: a file cannot name a class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

TAG = "$"
DTYPES = {"bool", "float16", "float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


class NotPlain(ValueError):
    """A value holds something that has no place in plain data; the message says what, and where in it."""


def pack(value: Any, arrays: dict[str, np.ndarray], place: str) -> Any:
    """Return a value as what JSON can hold, and put its arrays into `arrays`; raises NotPlain. place: what to call the value."""
    kind = type(value)
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is float:
        return {TAG: "float", "value": repr(value)}
    if kind is list:
        return [pack(item, arrays, f"{place}.{number}") for number, item in enumerate(value)]
    if kind is tuple:
        return {TAG: "tuple", "items": pack(list(value), arrays, place)}
    if kind is dict and TAG not in value and all(type(key) is str for key in value):
        return {key: pack(item, arrays, f"{place}.{key}") for key, item in value.items()}
    if kind is dict:
        return {TAG: "dict", "items": pack([list(pair) for pair in value.items()], arrays, place)}
    if isinstance(value, ArrayRecord):
        return {TAG: "record", "items": pack([[name, array.numpy()] for name, array in value.items()], arrays, place)}
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.name in DTYPES:
        while place in arrays:
            place += "'"
        # safetensors writes memory as it lies, whatever the strides; ascontiguousarray would give a number a dimension.
        arrays[place] = np.asarray(value, order="C")
        return {TAG: "array" if isinstance(value, np.ndarray) else "number", "name": place}
    what = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {kind.__name__}"
    raise NotPlain(f"{place} is {what}")


def unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return what was packed, with arrays that may be written to; raises ValueError, KeyError or TypeError for anything else."""
    if isinstance(value, list):
        return [unpack(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if TAG not in value:
        return {key: unpack(item, arrays) for key, item in value.items()}
    match value[TAG]:
        case "float":
            return float(value["value"])
        case "tuple":
            return tuple(unpack(value["items"], arrays))
        case "dict":
            return dict(unpack(value["items"], arrays))
        case "record":
            return ArrayRecord({name: Array(array) for name, array in unpack(value["items"], arrays)})
        case "array":
            return arrays[value["name"]].copy()
        case "number":
            return arrays[value["name"]][()]
    raise ValueError(f"there is no kind of value {value[TAG]!r}")
