"""Availability as it was recorded: a CSV file with a line for each stretch of time in which a client is there.

    client,start_s,end_s
    0,0,3600
    0,7200,9000
    3,100,200

Times are whole seconds of simulated time, `end_s` is not included any more. Lines are in any order, stretches may overlap, and
other columns are ignored. A client without a line is never there; lines of clients that the scenario does not have are kept for
a larger one. With `period_s` all of it repeats.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from fedapt.errors import ScenarioError
from fedapt.selection.availability import Calendar, Changing

COLUMNS = ("client", "start_s", "end_s")
EXAMPLE = "the first line is `client,start_s,end_s`, the others are such as `0,3600,7200`"
# More digits than a float holds.
MOST_DIGITS = 15


class Trace(Changing):
    """Clients are there when a file says so."""

    kind: Literal["trace"] = "trace"
    file: str = Field(min_length=1, description="a .csv with the columns client, start_s and end_s, in whole seconds")
    period_s: int | None = Field(
        default=None, ge=1, le=10**12, description="after this many seconds the trace begins anew, for example 86400; null: never"
    )

    def calendar(self, seed: int, groups: Sequence[tuple[str, str]]) -> Calendar:
        """Return the calendar in the file; raises ScenarioError, with the line, if it is not valid."""
        return _Trace(_merged(read_trace(Path(self.file), self.period_s)), self.period_s)


def read_trace(path: Path, period_s: int | None) -> list[tuple[int, int, int]]:
    """Return client, start and end of each line; raises ScenarioError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            stretches = list(_lines(file, path, period_s))
    except OSError as error:
        problem = "there is no such file" if isinstance(error, FileNotFoundError) else f"it cannot be read: {error.strerror}"
        raise ScenarioError(f"clients.availability.file: {path}: {problem}; check the path") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScenarioError(f"{path}: this is no CSV file in UTF-8 ({error}); {EXAMPLE}") from None
    if not stretches:
        raise ScenarioError(f"{path}: no client is ever there; {EXAMPLE}")
    return stretches


def _lines(file: Iterable[str], path: Path, period_s: int | None) -> Iterator[tuple[int, int, int]]:
    reader = csv.reader(file, strict=True)
    header = [name.strip() for name in next(reader, [])]
    if missing := [name for name in COLUMNS if name not in header]:
        raise ScenarioError(f"{path}:1: the column `{missing[0]}` is missing; {EXAMPLE}")
    places = [header.index(name) for name in COLUMNS]
    for cells in reader:
        if not any(cells):
            continue
        where = f"{path}:{reader.line_num}"
        if len(cells) <= max(places):
            raise ScenarioError(f"{where}: {len(cells)} values under {len(header)} columns; {EXAMPLE}")
        client, start_s, end_s = (_whole(cells[at], header[at], where) for at in places)
        if end_s <= start_s:
            raise ScenarioError(f"{where}: end_s {end_s} is not after start_s {start_s}; expected a later one")
        if period_s is not None and end_s > period_s:
            raise ScenarioError(f"{where}: end_s {end_s} is after the period of {period_s} s; raise period_s or split the line")
        yield client, start_s, end_s


def _whole(text: str, column: str, where: str) -> int:
    text = text.strip()
    if not (text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS):
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise ScenarioError(f"{where}: {column}: expected a whole number from 0 on, found `{shown}`")
    return int(text)


def _merged(stretches: Iterable[tuple[int, int, int]]) -> dict[int, list[int]]:
    """Return for each client its starts and ends in turn, ascending: stretches that overlap or touch are one."""
    edges: dict[int, list[int]] = {}
    for client, start_s, end_s in sorted(stretches):
        of = edges.setdefault(client, [])
        if of and start_s <= of[-1]:
            of[-1] = max(of[-1], end_s)
        else:
            of += (start_s, end_s)
    return edges


@dataclass(frozen=True)
class _Trace(Calendar):
    """edges: by client, seconds at which it comes and goes in turn, ascending; within the period if there is one."""

    edges: Mapping[int, Sequence[int]]
    period_s: int | None

    def available(self, client: int, clock_s: float) -> bool:
        _, second = self._split(clock_s)
        return bisect_right(self.edges.get(client, ()), second) % 2 == 1

    def next_change_s(self, client: int, clock_s: float) -> float:
        edges = self.edges.get(client)
        if not edges:
            return math.inf
        begin, second = self._split(clock_s)
        if (following := bisect_right(edges, second)) < len(edges):
            return float(begin + edges[following])
        return math.inf if self.period_s is None else float(begin + self.period_s + edges[0])

    def horizon_s(self, clock_s: float) -> float:
        return math.inf if self.period_s is None else clock_s + self.period_s

    def _split(self, clock_s: float) -> tuple[int, int]:
        """Return when the present repetition of the trace began, and the second in it."""
        second = math.floor(clock_s)
        within = second if self.period_s is None else second % self.period_s
        return second - within, within
