"""YAML read as plain data that remembers where every value stood, and nothing more.

Promises: no tag is ever acted on, aliases cannot multiply without bound, and whatever the bytes are, what comes out is
data, or a `ScenarioError` that names a line. YAML 1.2: `1e-3` is a number, `off` is text.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from fedapt.errors import ScenarioError

MAX_BYTES = 2**20
MAX_VALUES = 20_000
MAX_DEPTH = 30

KeyPath = tuple[str | int, ...]

_TAG = "tag:yaml.org,2002:"
_BASES = {"0x": 16, "0o": 8, "0b": 2}


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written: a point of a file, or a `--set` on the command line (which sorts last)."""

    line: float
    column: float
    text: str


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong, in words; `path` names the block or the value that it is about."""

    place: Place
    path: str
    text: str

    def __str__(self) -> str:
        parts = [part if len(part) <= 500 else part[:497] + "..." for part in (self.place.text, self.path, self.text) if part]
        text = ": ".join(parts)
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@dataclass(frozen=True)
class Source:
    """Plain data, the place of each key and of each value in it (of the top at least), and what was already found to be wrong."""

    data: Any
    keys: dict[KeyPath, Place]
    values: dict[KeyPath, Place]
    problems: tuple[Problem, ...] = ()

    def key_place(self, path: KeyPath) -> Place:
        """Return where the key at `path` stands; for an element of a list, where the element begins."""
        return self.keys.get(path) or self.value_place(path)

    def value_place(self, path: KeyPath) -> Place:
        """Return where the value at `path` stands, or the nearest block around it that was written down."""
        while path not in self.values:
            path = path[:-1]
        return self.values[path]


def dotted(path: KeyPath) -> str:
    """Write a path as `--set` takes it: `clients.groups.0.share`."""
    return ".".join(map(str, path))


def value_at(data: Any, path: KeyPath) -> Any:
    """Return what plain data hold at `path`, None where there is no such place."""
    for step in path:
        has = step in data if isinstance(data, dict) else isinstance(data, list) and step in range(len(data))
        data = data[step] if has else None
    return data


def fail(problems: Sequence[Problem]) -> ScenarioError:
    """Return one error that holds all problems, one line each, in the order of the file; beyond 50 only how many more."""
    lines = [str(problem) for problem in sorted(problems)[:50]]
    more = [f"... and {len(problems) - 50} more problems"] if len(problems) > 50 else []
    return ScenarioError("\n".join(lines + more))


def read_file(path: Path) -> Source:
    """Read a YAML file of at most 1 MiB; raises ScenarioError if it cannot be opened."""
    if os.path.isdir(path):
        raise ScenarioError(f"{path}: is a folder, expected a YAML file; name a file in it")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ScenarioError(f"{path}: there is no such file; check the path (the working directory is {Path.cwd()})") from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions") from None
    return read_bytes(content, str(path))


def read_bytes(content: bytes, name: str) -> Source:
    """Read the bytes of a YAML file, whose top must be a mapping; `name` is what errors call it."""
    if len(content) > MAX_BYTES:
        return _broken(_point(name), "the file is larger than 1 MiB, far more than a scenario needs; is it the right file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before, byte = content[: error.start].decode("utf-8"), content[error.start]
        return _broken(_point(name, before), f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8")
    source = read_text(text, name)
    if source.problems or isinstance(source.data, dict):
        return source
    found = "the file is empty" if source.data is None else "the file holds something else"
    return _broken(source.value_place(()), f"{found}, expected a mapping of keys such as `version: 1`")


def read_text(text: str, name: str) -> Source:
    """Read YAML text of any shape; whatever is wrong is in the source's problems, and then its data may be None."""
    directive = re.search(r"^%.*$", text, re.MULTILINE)
    if directive:
        return _broken(_point(name, text[: directive.start()]), f"`{directive[0]}` is not supported; remove the line")
    yaml = YAML(typ="safe", pure=True)
    yaml.composer.warn_double_anchors = False
    reader = _Reader(name)
    try:
        node = yaml.compose(text)
        data = None if node is None else reader.value(node, ())
    except MarkedYAMLError as error:
        return _broken(*_syntax(error, name))
    except ReaderError as error:
        return _broken(_point(name, text[: error.position]), f"character {error.character:#04x} cannot be in YAML; remove it")
    except RecursionError:
        return _broken(_point(name), f"more than {MAX_DEPTH} levels of nesting, far more than a scenario has")
    except _Unfolds as error:
        return _broken(*error.args)
    return Source(data, reader.keys, {(): _point(name), **reader.values}, tuple(reader.problems))


def _broken(place: Place, text: str) -> Source:
    return Source(None, {}, {(): place}, (Problem(place, "", text),))


class _Unfolds(Exception):
    """The aliases of a file multiply, or contain themselves; carries the place and the sentence."""


class _Reader:
    """Turns nodes into plain values, noting their places; the only state is what it has read so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.keys: dict[KeyPath, Place] = {}
        self.values: dict[KeyPath, Place] = {}
        self.problems: list[Problem] = []

    def value(self, node: Node, path: KeyPath) -> Any:
        """Return the node as plain data; aliases are expanded, so the count is of values, not of nodes."""
        # Nothing at all after a key would be placed where the next key begins.
        nothing = isinstance(node, ScalarNode) and not node.value and str(node.tag) == _TAG + "null"
        place = self.values[path] = self.keys[path] if nothing and path in self.keys else self.place(node)
        if len(self.values) > MAX_VALUES or len(path) > MAX_DEPTH:
            limit = f"{MAX_DEPTH} levels" if len(path) > MAX_DEPTH else f"{MAX_VALUES} values"
            raise _Unfolds(place, f"the file unfolds to more than {limit}, far more than a scenario has; check its aliases")
        tag = str(node.tag)
        if isinstance(node, MappingNode) and tag == _TAG + "map":
            return dict(self.items(node, path))
        if isinstance(node, SequenceNode) and tag == _TAG + "seq":
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        if isinstance(node, ScalarNode):
            try:
                return _scalar(node.value, tag)
            except ValueError as error:
                self.complain(path, place, str(error))
                return None
        self.complain(path, place, f"tag `{_short(tag)}` is unknown; tags are never acted on, write plain values")
        return None

    def items(self, node: MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        for key_node, value_node in node.value:
            place, key = self.place(key_node), key_node.value
            key_path = (*path, key) if isinstance(key, str) else path
            if not isinstance(key, str) or str(key_node.tag) != _TAG + "str":
                wrong = "merging with `<<` is not supported; write the keys out" if key == "<<" else "a key must be text"
                self.complain(path, place, wrong)
            elif key_path in self.keys:
                first = self.keys[key_path].line
                self.complain(path, place, f"key `{key}` stands here a second time, first on line {first}; remove one of them")
            else:
                self.keys[key_path] = place
                yield key, self.value(value_node, key_path)

    def complain(self, path: KeyPath, place: Place, text: str) -> None:
        self.problems.append(Problem(place, dotted(path), text))

    def place(self, node: Node) -> Place:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        return Place(line, column, f"{self.name}:{line}:{column}")


def _scalar(text: str, tag: str) -> Any:
    """Return a scalar's value by its resolved tag; raises ValueError with a sentence."""
    match tag.removeprefix(_TAG):
        case "str" | "timestamp" | "value":
            return text
        case "null":
            return None
        case "bool" if text.lower() in ("true", "false"):
            return text.lower() == "true"
        case "int" | "float" as kind:
            return _number(text.replace("_", ""), kind)
    raise ValueError(f"tag `{_short(tag)}` is unknown; tags are never acted on, write the plain value")


def _number(text: str, kind: str) -> int | float:
    try:
        if kind == "int":
            return int(text, _BASES.get(text.lstrip("+-")[:2].lower(), 10))
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"`{text[:40]}` is not a finite number of a usable size")
    return number


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag


def _point(name: str, before: str = "") -> Place:
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return Place(line, column, f"{name}:{line}:{column}")


_SYNTAX = (
    (r"character '\\t'", "a tab cannot indent; use spaces"),
    (r"character '(.)' that cannot start", r"a value cannot begin with `\1`; put it in quotes"),
    (r"mapping values are not allowed", "a `:` where none can be; check the indentation, or put the text in quotes"),
    (r"unexpected end of stream", "the quote opened on line {line} is never closed; add the closing quote"),
    (r"expected ',' or '(.)'", r"expected `,` or `\1` to go on with what was opened on line {line}; check commas and brackets"),
    (r"expected <block end>", "the indentation does not match the lines above; align the keys of a block"),
    (r"could not find expected ':'", "expected `key: value`; add the `:` and a space"),
    (r"found undefined alias '(.*)'", r"alias `*\1` is not defined; define it before with `&\1`"),
    (r"but found another document", "a second document begins here; keep one and remove the `---`"),
)


def _syntax(error: MarkedYAMLError, name: str) -> tuple[Place, str]:
    """Say where and in words what the parser did not like."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    opened = error.context_mark.line + 1 if error.context_mark else line
    said = str(error.problem)
    found = ((match, text) for pattern, text in _SYNTAX if (match := re.search(pattern, said)))
    text = next((match.expand(text.replace("{line}", str(opened))) for match, text in found), f"not valid YAML: {said}")
    return Place(line, column, f"{name}:{line}:{column}"), text
