"""Who is at work when, without rounds: a pure function of what is in flight and how long clients take."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Flight:
    """A client at work. arrival_s: when it will be back; version: how many steps the server had taken when it was asked."""

    arrival_s: float
    client: int
    version: int


@dataclass(frozen=True)
class Window:
    """What happens until the server's next step. arrived: in the order of their arrival; flying: who is still at work then.

    ends_s: when the step is taken; nobody is left to wait for if fewer than wanted had arrived.
    """

    asked: tuple[Flight, ...]
    arrived: tuple[Flight, ...]
    flying: tuple[Flight, ...]
    ends_s: float


def window(
    flying: Collection[Flight],
    now_s: float,
    version: int,
    *,
    wanted: int,
    concurrency: int,
    choose: Callable[[float, Collection[int], int], int | None],
    wait_s: Callable[[float, Collection[int]], float],
    lasts_s: Callable[[int], float | None],
    counts: Callable[[Flight], bool],
) -> Window:
    """Play from one server step to the next.

    choose:  the next client, given the time, those that cannot be asked and how often it was called; None if there is nobody.
    wait_s:  how long it takes until there is somebody, given the time and those that cannot be asked; inf if nobody ever comes,
             0 if there is nobody to come.
    lasts_s: how long a client takes; None if it cannot take part.
    counts:  whether what a client brings is one of the `wanted` updates.

    A client is asked once in a window at most, and not after it came back in it: no step counts two updates of one client.
    """
    air, asked, arrived = list(flying), list[Flight](), list[Flight]()
    tried: set[int] = set()
    had, calls = 0, 0
    while had < wanted:
        while len(air) < concurrency:
            client = choose(now_s, tried.union(flight.client for flight in air), calls)
            calls += 1
            if client is None:
                break
            tried.add(client)
            duration_s = lasts_s(client)
            if duration_s is not None:
                flight = Flight(now_s + duration_s, client, version)
                air.append(flight)
                asked.append(flight)
        busy = tried.union(flight.client for flight in air)
        waited_s = (len(air) < concurrency and wait_s(now_s, busy)) or math.inf
        first = min(air, default=None)
        if first is None and waited_s == math.inf:
            break
        if first is None or now_s + waited_s < first.arrival_s:
            now_s += waited_s
            continue
        air.remove(first)
        arrived.append(first)
        tried.add(first.client)
        now_s = max(now_s, first.arrival_s)
        had += counts(first)
    return Window(tuple(asked), tuple(arrived), tuple(sorted(air)), now_s)
