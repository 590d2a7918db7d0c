"""A daily cycle: devices are there at certain hours, say at night, when they are charged and idle.

The simulated clock begins at midnight. Every client's own clock differs from it by a shift drawn from the seed: time zones, or
habits. Outside its hours a client is there in each single hour with a small probability, drawn anew for each hour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from fedapt.seeding import stream_key
from fedapt.selection.availability import Calendar, Changing

HOUR_S, DAY_S = 3600, 86_400
# Beyond a month, hours drawn one by one bring nobody who is worth waiting for.
PATIENCE_DAYS = 30


def _not_empty(hours: tuple[float, float]) -> tuple[float, float]:
    if round(hours[0] * HOUR_S) == round(hours[1] * HOUR_S):
        raise ValueError(f"from {hours[0]:g} to {hours[1]:g} is no time at all; for the whole day write [0, 24]")
    return hours


Hours = Annotated[
    tuple[Annotated[float, Field(ge=0, lt=24)], Annotated[float, Field(gt=0, le=24)]],
    Field(strict=False),
    AfterValidator(_not_empty),
]


class Daily(Changing):
    """Clients are there from one hour of their day to another, also over midnight, and now and then outside."""

    kind: Literal["daily"] = "daily"
    hours: Hours = Field(default=(22.0, 6.0), description="when clients are there, in hours of their own day; [0, 24]: always")
    groups: dict[str, Hours] = Field(
        default_factory=dict, description="other hours for some groups, by the group's name or its profile"
    )
    spread_h: float = Field(
        default=4.0, ge=0, le=24, description="the clients' clocks differ by up to this many hours; 24: all around the globe"
    )
    outside: float = Field(default=0.0, ge=0, le=1, description="probability of being there in an hour outside of these")

    def hours_of(self, group: str, profile: str) -> tuple[float, float]:
        """Return the hours of a group."""
        return self.groups.get(group, self.groups.get(profile, self.hours))

    def calendar(self, seed: int, groups: Sequence[tuple[str, str]]) -> Calendar:
        """Return the calendar of clients whose clocks are shifted by the seed."""
        days = {named: _Day.of(self.hours_of(*named)) for named in set(groups)}
        spread_s = round(self.spread_h * HOUR_S)
        shifts = [math.floor(_uniform(seed, client) * spread_s) - spread_s // 2 for client in range(len(groups))]
        return _Daily(seed, self.outside, [days[named] for named in groups], shifts)


@dataclass(frozen=True)
class _Day:
    """The seconds of a day at which a client comes and goes."""

    start_s: int
    end_s: int

    @classmethod
    def of(cls, hours: tuple[float, float]) -> Self:
        return cls(round(hours[0] * HOUR_S), round(hours[1] * HOUR_S))

    def holds(self, second: int) -> bool:
        if self.start_s < self.end_s:
            return self.start_s <= second < self.end_s
        return second >= self.start_s or second < self.end_s


@dataclass(frozen=True)
class _Daily(Calendar):
    """days, shift_s: by client."""

    seed: int
    outside: float
    days: Sequence[_Day]
    shift_s: Sequence[int]

    def available(self, client: int, clock_s: float) -> bool:
        second = math.floor(clock_s) + self.shift_s[client]
        if self.days[client].holds(second % DAY_S):
            return True
        return self.outside > 0 and _uniform(self.seed, client, second // HOUR_S) < self.outside

    def next_change_s(self, client: int, clock_s: float) -> float:
        second = math.floor(clock_s) + self.shift_s[client]
        day = self.days[client]
        waits = [(edge - second - 1) % DAY_S + 1 for edge in (day.start_s, day.end_s)]
        if self.outside > 0:
            waits.append(HOUR_S - second % HOUR_S)
        return float(math.floor(clock_s) + min(waits))

    def horizon_s(self, clock_s: float) -> float:
        return clock_s + DAY_S * (PATIENCE_DAYS if self.outside > 0 else 1)


def _uniform(seed: int, *indices: int) -> float:
    """Return a number in [0, 1): a generator for each hour of each client would take ten times longer."""
    return (stream_key(seed, "availability", *indices) >> 75) / 2**53
