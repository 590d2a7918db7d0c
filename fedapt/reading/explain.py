"""What pydantic finds wrong with a block, said in words and with the place where it was written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from fedapt.reading.yaml_source import KeyPath, Problem, Source, dotted, value_at

Node = Mapping[str, Any]


def explain(error: ValidationError, model: type[BaseModel], source: Source) -> list[Problem]:
    """Return one problem for each place that `error` complains about; `source` is what `model` was validated from."""
    schema = model.model_json_schema()
    found: dict[KeyPath, list[Any]] = {}
    for item in error.errors(include_url=False):
        loc, absent = (item["loc"][:-1], item["loc"][-1:]) if item["type"] == "missing" else (item["loc"], ())
        found.setdefault((*_path(loc, source.data), *absent), []).append(item)
    said = {problem.path for problem in source.problems} | _misspelt(found) | _other_branches(found)
    return [_problem(path, items, schema, source) for path, items in found.items() if dotted(path) not in said]


def _other_branches(found: Mapping[KeyPath, Sequence[Any]]) -> set[str]:
    """Return the lists and blocks that failed as one branch of a union only, when another branch says what is wrong inside."""
    outer = {path[:length] for path in found for length in range(len(path))}
    failed = [path for path, items in found.items() if all(item["type"].endswith("_type") for item in items)]
    return {dotted(path) for path in failed if path in outer}


def _misspelt(found: Mapping[KeyPath, Sequence[Any]]) -> set[str]:
    """Return the missing keys that an unknown key of the same block was meant to be: one complaint is enough."""
    missing = [path for path, items in found.items() if items[0]["type"] == "missing"]
    unknown = [path for path, items in found.items() if items[0]["type"] == "extra_forbidden"]
    pairs = ((path, wrong) for path in missing for wrong in unknown if path[:-1] == wrong[:-1])
    return {dotted(path) for path, wrong in pairs if difflib.get_close_matches(str(wrong[-1]), [str(path[-1])])}


def suggest(word: str, known: Iterable[str], what: str = "known") -> str:
    """Return `did you mean ...?` when something is near, else what there is; to follow `unknown x `word`; `."""
    names = list(known)
    near = difflib.get_close_matches(word, names, 1, 0.6)
    return f"did you mean `{near[0]}`?" if near else f"{what}: {', '.join(names) or 'nothing'}"


def describe(value: Any) -> str:
    """Say what a value from YAML is, shortened and on one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"`{str(value).lower()}`"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text `{value if len(value) <= 40 else value[:37] + '...'}`"
        case list():
            return f"a list of {len(value)}"
    return "a block of keys"


def _path(loc: Sequence[str | int], data: Any) -> KeyPath:
    """Return the keys of a pydantic location: without the labels of unions, which are no keys of the file."""
    path: KeyPath = ()
    labelled = False
    for step in loc:
        keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if step == (data.get("kind") if isinstance(data, dict) else data) and not labelled:
            labelled = True
        elif step in keys:
            path, data, labelled = (*path, step), data[step], False
    return path


def _problem(path: KeyPath, items: Sequence[Any], schema: Node, source: Source) -> Problem:
    kind: str = items[0]["type"]
    block, key = path[:-1], str(path[-1]) if path else ""
    if kind == "extra_forbidden":
        known = [name for node in _nodes(schema, block, source.data) for name in node.get("properties", ())]
        return Problem(source.key_place(path), dotted(block), f"unknown key `{key}`; {suggest(key, known, 'allowed here')}")
    if kind == "missing":
        about = f" ({text})" if (text := _description(schema, path, source.data)) else ""
        return Problem(source.key_place(block), dotted(block), f"`{key}` is missing; add it{about}")
    if kind.startswith("union_tag"):
        kinds = _kinds(_nodes(schema, path, source.data))
        if kind == "union_tag_not_found":
            return Problem(source.key_place(path), dotted(path), f"`kind` is missing; add it: {', '.join(kinds)}")
        at = (*path, "kind") if (*path, "kind") in source.values else path
        tag = str(items[0]["ctx"]["tag"])
        return Problem(source.value_place(at), dotted(path), f"unknown kind `{tag}`; {suggest(tag, kinds)}")
    names = _kinds(_nodes(schema, path, source.data)) if kind.startswith("model") else []
    # A number out of its bounds has the right type: what else could stand there is no help.
    bounded = any(not item["type"].endswith(("_type", "literal_error")) for item in items)
    items = [item for item in items if not (bounded and item["type"].endswith("_type"))]
    wanted = [f"one of {', '.join(names)}"] if names else [_expected(item) for item in items]
    return Problem(source.value_place(path), dotted(path), _sentence(items, wanted, _description(schema, path, source.data)))


def _sentence(items: Sequence[Any], wanted: Sequence[str | None], description: str) -> str:
    """Say what was expected and what was found; there are several items when the value may be of one type or another."""
    value = items[0]["input"]
    if said := [str(item["ctx"]["error"]) for item in items if item["type"] in ("value_error", "assertion_error")]:
        return f"{said[0]}, found {describe(value)}" if said[0].startswith("expected") else said[0]
    expected = " or ".join(dict.fromkeys(text for text in wanted if text)) or f"something else ({description})"
    advice = ""
    if value is None:
        advice = "; give it a value or remove the key"
    elif "text" in wanted and isinstance(value, (int, float)):
        advice = "; put it in quotes"
    elif near := difflib.get_close_matches(str(value), [name for item in items for name in _named(item)], 1):
        advice = f"; did you mean `{near[0]}`?"
    return f"expected {expected}, found {describe(value)}{advice}"


_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "`true` or `false`",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a block of keys",
    "model_type": "a block of keys",
    "model_attributes_type": "a block of keys",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "finite_number": "a finite number",
    "none_required": "nothing",
}


def _expected(item: Any) -> str | None:
    """Return what one pydantic error asks for, in words; None if there are no words for it."""
    kind, context = item["type"], {key: _short(value) for key, value in item.get("ctx", {}).items()}
    if kind in ("literal_error", "enum"):
        return " or ".join(f"`{name}`" for name in _named(item))
    return _WORDS[kind].format(**context) if kind in _WORDS else None


def _short(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _named(item: Any) -> list[str]:
    """Return the values that a literal may have, from pydantic's list of them."""
    return [name.strip("'") for name in re.split(", | or ", item.get("ctx", {}).get("expected", "")) if name]


def _nodes(schema: Node, path: KeyPath, data: Any) -> list[Node]:
    """Return the parts of a JSON schema that describe the value at `path`; of a block with a `kind`, that kind's only."""
    nodes = list(_alternatives(schema, schema))
    for step in path:
        nodes = [part for node in nodes for child in _children(node, step) for part in _alternatives(schema, child)]
        data = value_at(data, (step,))
        chosen = data.get("kind") if isinstance(data, dict) else data
        nodes = [node for node in nodes if chosen is not None and _kind(node) == chosen] or nodes
    return nodes


def _alternatives(schema: Node, node: Node) -> Iterator[Node]:
    if "$ref" in node:
        yield from _alternatives(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[-1]])
    parts = [part for word in ("anyOf", "oneOf", "allOf") for part in node.get(word, ())]
    for part in parts:
        yield from _alternatives(schema, part)
    if not parts and "$ref" not in node:
        yield node


def _children(node: Node, step: str | int) -> list[Node]:
    child = node.get("items") if isinstance(step, int) else node.get("properties", {}).get(step)
    return [] if child is None else [child]


def _kind(node: Node) -> str | None:
    kind: str | None = node.get("properties", {}).get("kind", {}).get("const")
    return kind


def _kinds(nodes: Iterable[Node]) -> list[str]:
    return [kind for node in nodes if (kind := _kind(node))]


def _description(schema: Node, path: KeyPath, data: Any) -> str:
    """Return the description of the key at `path`, which says what it is for; empty if it has none."""
    nodes = [child for node in _nodes(schema, path[:-1], data) for step in path[-1:] for child in _children(node, step)]
    return next((node["description"] for node in nodes if "description" in node), "")
