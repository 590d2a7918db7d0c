"""`--set clients.groups.0.share=0.5`: settings from the command line, laid over a file and checked as if the file said them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fedapt.reading.yaml_source import KeyPath, Place, Problem, Source, dotted, read_text


def override(source: Source, settings: Sequence[str]) -> Source:
    """Return the source with each `key.path=value` applied in turn; the value is YAML, and the setting is its place."""
    for setting in settings:
        source = _override(source, setting)
    return source


def with_value(node: Any, path: KeyPath, value: Any) -> Any:
    """Return a copy of plain data with `value` at `path`; absent blocks are made, and a bare name becomes `{kind: name}`.

    Raises ValueError, with a sentence, if a list is on the way where there should be none, or none where there should be one.
    """
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        if isinstance(node, list):
            raise ValueError(f"`{step}` is looked for in a list; name an element by its number, counted from 0")
        block = node if isinstance(node, dict) else {} if node is None else {"kind": node}
        return {**block, step: with_value(block.get(step), rest, value)}
    items = [] if node is None else node
    if not isinstance(items, list):
        raise ValueError(f"`{step}` is a place in a list, but there is none here; use the name of a key")
    if step > len(items):
        raise ValueError(f"the list has {len(items)} elements, so `{step}` is not one of them; count from 0")
    element = items[step] if step < len(items) else None
    return [*items[:step], with_value(element, rest, value), *items[step + 1 :]]


def key_path(keys: str) -> KeyPath | None:
    """Read `clients.groups.0.share`; None if a step of it is empty."""
    steps = keys.strip().split(".")
    return None if "" in steps else tuple(int(step) if step.isdecimal() and len(step) < 6 else step for step in steps)


def lay(source: Source, path: KeyPath, value: Source, place: Place) -> Source:
    """Return the source with the data of another one at `path`; what that one does not place stands at `place`."""
    try:
        data = with_value(source.data, path, value.data)
    except ValueError as error:
        return replace(source, problems=(*source.problems, Problem(place, dotted(path), str(error))))
    made = {path[:length]: place for length in range(1, len(path) + 1)}
    kept = {at: where for at, where in source.values.items() if at[: len(path)] != path}
    keys = {at: where for at, where in source.keys.items() if at[: len(path)] != path}
    own = [{(*path, *at): where for at, where in places.items() if at} for places in (value.keys, value.values)]
    return Source(data, keys | own[0], made | kept | own[1], source.problems)


def _override(source: Source, setting: str) -> Source:
    place = Place(math.inf, math.inf, f"--set {setting}")
    keys, equals, text = setting.partition("=")
    path = key_path(keys)
    if not equals or path is None:
        problem = Problem(place, "", "expected `key.path=value`, for example `--set clients.count=50`")
        return replace(source, problems=(*source.problems, problem))
    value = read_text(text, place.text)
    if value.problems:
        problems = [replace(problem, place=place, path=dotted(path)) for problem in value.problems]
        return replace(source, problems=(*source.problems, *problems))
    return lay(source, path, Source(value.data, {}, {}), place)
