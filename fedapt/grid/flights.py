"""Clients at work while the server goes on: what each brings back, and when, with the asynchronous clock.

How long a client takes is known when it is asked, from the cost model; what comes of it is known once it has trained. So a window
is first drawn as if all went well, those that it asks are played, all at once, and it is drawn again until it asks nobody new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from fedapt.clients.instructions import TrainReport
from fedapt.clock.asynchronous import Asynchronous
from fedapt.clock.schedule import Flight, Window, window
from fedapt.cost.ledger import LedgerRow
from fedapt.quant.parts import Part

TOO_LATE = "the run ended before it came back"


class Roster(Protocol):
    """Who can be asked, and who is: `fedapt.selection.cohorts.Cohorts`."""

    def draw(self, number: int, clock_s: float, size: int, busy: Collection[int] = (), turn: int = 0) -> tuple[list[int], float]:
        """Return so many clients for the round, and how long to wait for them; `turn` counts the draws of a round."""

    def wait_s(self, clock_s: float, size: int, busy: Collection[int] = ()) -> float:
        """Return how long it takes until so many are there; inf if they never are."""


@dataclass(frozen=True)
class Brought:
    """What came of a flight. rows: one an attempt; kept: what the client keeps for its next; the rest is of an admitted update.

    part: what of the model the update is of, None for all;
    bits, moves: of its layers at the end, and by how much the client has moved them; metrics: for the strategy.
    """

    rows: tuple[LedgerRow, ...]
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    report: TrainReport | None = None
    update: Mapping[str, np.ndarray] | None = None
    part: Part | None = None
    bits: Mapping[str, int] = field(default_factory=dict)
    moves: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the strategy will be handed an update: one of no samples has no weight."""
        return self.rows[-1].status == "ok" and self.rows[-1].samples > 0


@dataclass(frozen=True)
class Landed:
    """A flight that came back. staleness: server steps since it was asked."""

    client: int
    staleness: int
    brought: Brought


class Flights:
    """Who is in the air, and with what."""

    def __init__(self, clock: Asynchronous, wanted: int, roster: Roster) -> None:
        self._clock, self._wanted, self._roster = clock, wanted, roster
        self._air: dict[Flight, Brought] = {}

    def step(
        self,
        number: int,
        now_s: float,
        lasts_s: Callable[[int], float | None],
        play: Callable[[Sequence[int]], Mapping[int, Brought]],
    ) -> tuple[list[Landed], float]:
        """Go on to the server's next step; return who landed, in the order of arrival, and when the step is taken.

        lasts_s: how long a client will take; None if it cannot take part. play: lets clients train on the model of now.
        Raises RunFailed if nobody is in the air, and nobody will ever be there to be asked.
        """
        if not self._air:
            self._roster.draw(number, now_s, 1)
        known: dict[int, Brought] = {}
        while True:
            seen = self._draw(number, now_s, lasts_s, known)
            unknown = [flight.client for flight in seen.asked if flight.client not in known]
            if not unknown:
                break
            known |= play(unknown)
        cargo = self._air | {flight: known[flight.client] for flight in seen.asked}
        self._air = {flight: cargo[flight] for flight in seen.flying}
        return [self._landed(flight, cargo[flight], number) for flight in seen.arrived], seen.ends_s

    def give_up(self, number: int) -> list[LedgerRow]:
        """Return the rows of all that are still in the air when the run ends; what they do is charged."""
        return [
            replace(row, round=number, staleness=number - flight.version, **_spoilt(row, TOO_LATE))
            for flight, brought in sorted(self._air.items(), key=lambda item: item[0])
            for row in brought.rows
        ]

    def state(self) -> list[dict[str, Any]]:
        """Return who is in the air, and with what, as plain data."""
        return [
            {
                "flight": asdict(flight),
                "rows": [asdict(row) for row in brought.rows],
                "kept": dict(brought.kept),
                "report": brought.report.model_dump() if brought.report else None,
                "update": dict(brought.update) if brought.update is not None else None,
                "part": brought.part.plain() if brought.part else None,
                "bits": dict(brought.bits),
                "moves": dict(brought.moves),
                "metrics": dict(brought.metrics),
            }
            for flight, brought in sorted(self._air.items(), key=lambda item: item[0])
        ]

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take what `state` returned; raises ValueError, TypeError or KeyError for anything else."""
        self._air = {
            Flight(**one["flight"]): Brought(
                rows=tuple(LedgerRow(**row) for row in one["rows"]),
                kept=one["kept"],
                report=TrainReport.model_validate(one["report"]) if one["report"] else None,
                update=one["update"],
                part=Part.from_plain(one["part"]) if one["part"] else None,
                bits=one["bits"],
                moves=one["moves"],
                metrics=one["metrics"],
            )
            for one in state
        }

    def _draw(self, number: int, now_s: float, lasts_s: Callable[[int], float | None], known: Mapping[int, Brought]) -> Window:
        def choose(now_s: float, busy: Collection[int], calls: int) -> int | None:
            if self._roster.wait_s(now_s, 1, busy) > 0:
                return None
            return next(iter(self._roster.draw(number, now_s, 1, busy, calls)[0]), None)

        def counts(flight: Flight) -> bool:
            brought = known.get(flight.client) if flight.version == number else self._air[flight]
            return brought is None or (brought.counts and not self._too_old(number - flight.version))

        return window(
            self._air,
            now_s,
            number,
            wanted=self._wanted,
            concurrency=self._clock.concurrency,
            choose=choose,
            wait_s=lambda now_s, busy: self._roster.wait_s(now_s, 1, busy),
            lasts_s=lasts_s,
            counts=counts,
        )

    def _too_old(self, staleness: int) -> bool:
        return self._clock.max_staleness is not None and staleness > self._clock.max_staleness

    def _landed(self, flight: Flight, brought: Brought, number: int) -> Landed:
        staleness = number - flight.version
        rows = tuple(replace(row, round=number, staleness=staleness) for row in brought.rows)
        if self._too_old(staleness):
            reason = f"{staleness} server steps old, clock.max_staleness is {self._clock.max_staleness}"
            late = tuple(replace(row, **_spoilt(row, reason)) for row in rows)
            return Landed(flight.client, staleness, Brought(late, brought.kept))
        return Landed(flight.client, staleness, replace(brought, rows=rows))


def _spoilt(row: LedgerRow, reason: str) -> dict[str, Any]:
    """Return what is changed in a row whose update comes to nothing; one that came to nothing before keeps its reason."""
    return {"status": "late", "reason": reason} if row.status == "ok" else {}
