"""A Display at a distance: one process calls a Relay, another one reads the calls and makes them on a real Display."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import validate_call
from pydantic_core import to_json

from fedapt.report.terminal import Display

Call = tuple[str, list[Any]]


class Relay:
    """Takes every call that a Display takes, and any other, and appends it to a file as one line of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Callable[..., None]:
        return partial(self._write, name)

    def _write(self, name: str, *arguments: Any) -> None:
        with self._path.open("ab") as file:
            file.write(to_json([name, arguments], inf_nan_mode="constants") + b"\n")


class Calls:
    """Reads the file of a Relay while it grows."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._read = 0

    @property
    def begun(self) -> bool:
        """Whether a call was read yet."""
        return self._read > 0

    def new(self) -> Iterator[Call]:
        """Yield the calls that were completely written since the last time."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")
        self._read += len(whole[0]) + len(whole[1])
        for line in whole[0].splitlines():
            name, arguments = json.loads(line)
            yield name, arguments


def replay(call: Call, display: Display) -> None:
    """Make a call on a Display, with its arguments turned back into what the method takes."""
    name, arguments = call
    validate_call(getattr(display, name))(*arguments)
