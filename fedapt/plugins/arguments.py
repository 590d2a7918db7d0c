"""The arguments of a constructor as options of a scenario: those that YAML can hold."""

from __future__ import annotations

import inspect
import math
import types
import typing
from typing import Any, Literal, Union

from pydantic import Field

PLAIN = (bool, int, float, str, type(None))
COLLECTIONS = (list, tuple, dict, set, frozenset)


def parameters_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return the parameters of a class's constructor by name; `**kwargs` stand for those of the class that it derives from."""
    found: dict[str, inspect.Parameter] = {}
    for owner in kind.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        for parameter in list(_signature(vars(owner)["__init__"]).parameters.values())[1:]:
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                found.setdefault(parameter.name, parameter)
            elif parameter.kind is parameter.VAR_KEYWORD:
                break
        else:
            return found
    return found


def as_field(parameter: inspect.Parameter) -> tuple[Any, Any] | None:
    """Return a parameter as a field of a pydantic model; None if a scenario cannot hold it."""
    required = parameter.default is parameter.empty
    unknown = parameter.annotation is parameter.empty or isinstance(parameter.annotation, str)
    annotation = Any if unknown else parameter.annotation
    if parameter.kind is parameter.POSITIONAL_ONLY or not holds(annotation) or not (required or is_plain(parameter.default)):
        return None
    # A list is all that YAML has for a tuple or a set.
    listed = typing.get_origin(annotation) or annotation
    strict = False if listed in (tuple, set, frozenset) else None
    return annotation, Field(... if required else parameter.default, strict=strict)


def holds(annotation: Any) -> bool:
    """Return whether every value of a type can be written in YAML."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation in PLAIN or annotation is None or annotation in COLLECTIONS:
        return True
    if origin is Literal:
        return all(isinstance(value, PLAIN) for value in inner)
    if origin in (Union, types.UnionType, *COLLECTIONS):
        return all(part is Ellipsis or holds(part) for part in inner)
    return False


def is_plain(value: Any) -> bool:
    """Return whether a value can be written as YAML and is the same when it is read."""
    if isinstance(value, float):
        return type(value) is float and math.isfinite(value)
    if type(value) in (list, tuple, set, frozenset):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    return type(value) in PLAIN


def _signature(function: Any) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # an annotation names what is imported for type checkers only
        return inspect.signature(function)
