"""What a whole run cost and reached: ledger rows are added up round by round, so that they need not stay in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import add, attrgetter
from typing import Any

import numpy as np

from fedapt.cost.ledger import ClientRecord, LedgerRow, RoundRecord
from fedapt.quant.half import Compute

SUMMED = (
    "energy_j",
    "energy_compute_j",
    "energy_movement_j",
    "energy_radio_j",
    "energy_operands_j",
    "time_s",
    "time_compute_s",
    "time_movement_s",
    "time_radio_s",
    "downlink_bytes",
    "uplink_bytes",
    "samples",
    "steps",
    "macs",
    "backward_samples",
    "spared_samples",
)
# With the prefix of a unit: 950 uJ and 1.2 mJ are one cause.
_NUMBER = re.compile(r"\d[\d.]*(e[+-]?\d+)?( [munkMG]?i?(?=[JB]))?")
TABLES = ("linear", "horowitz", "bitops")
COSTS = {"energy": "energy_j", "time": "time_s", "memory": "memory_bytes", "bytes": "downlink_bytes"}
_figures, _costs = attrgetter(*SUMMED), attrgetter(*COSTS.values())
_place = attrgetter("round", "client", "attempt")
_tables, _sources = attrgetter(*(f"energy_{table}_j" for table in TABLES)), attrgetter(*(f"{cost}_source" for cost in COSTS))


@dataclass(frozen=True)
class Spread:
    """How a figure is spread over clients; `clients` is how many have the figure."""

    clients: int
    mean: float
    min: float
    p10: float
    median: float
    p90: float
    max: float


@dataclass(frozen=True)
class Cause:
    """Why clients did not contribute: how often, and which clients (sorted). Reasons that differ in numbers alone are one cause,
    told as it was first.
    """

    status: str
    reason: str
    count: int
    clients: tuple[int, ...]


@dataclass(frozen=True)
class GroupTotals:
    """What a group of clients, or all of them, spent: sums over ledger rows, except the peak `memory_bytes` and the means.

    `clients` have taken part or could have, `updates` are those that were aggregated, `attempts` are the ledger rows,
    `mean_bits` is the mean over the updates, `energy_operands_j` charges a MAC by both of its operands,
    not by its weight alone, and `accuracy` the mean over the clients with held-out samples.
    """

    group: str
    profile: str = ""
    clients: int = 0
    updates: int = 0
    attempts: int = 0
    energy_j: float = 0.0
    energy_compute_j: float = 0.0
    energy_movement_j: float = 0.0
    energy_radio_j: float = 0.0
    energy_operands_j: float = 0.0
    time_s: float = 0.0
    time_compute_s: float = 0.0
    time_movement_s: float = 0.0
    time_radio_s: float = 0.0
    downlink_bytes: int = 0
    uplink_bytes: int = 0
    memory_bytes: int = 0
    samples: int = 0
    steps: int = 0
    macs: int = 0
    backward_samples: int = 0
    spared_samples: int = 0
    mean_bits: float | None = None
    accuracy: float | None = None


@dataclass(frozen=True)
class Summary:
    """A run on one page.

    `accuracy` and `loss` are the global model's when it was last evaluated, `client_accuracy` is that of the final model at
    each client's own bits on its held-out samples.
    `total.time_s` is the sum of what devices worked; `simulated_time_s` is what the federation took, with all its waiting.
    `wall_s` is what this machine took for the rounds. `energy_tables_j` prices the same work under each energy table.
    `sources` counts, for each cost, the ledger rows by where the figure comes from.
    `batched` counts those of clients that were trained as one batch with others, which may change their last digits, as
    `channels_last` does, the layout of images. `compute` is what layers with codes of at most 8 bits were multiplied in.
    """

    rounds: int
    accuracy: float | None
    loss: float | None
    best_accuracy: float | None
    best_round: int | None
    client_accuracy: Spread | None
    total: GroupTotals
    groups: tuple[GroupTotals, ...]
    statuses: dict[str, int]
    causes: tuple[Cause, ...]
    energy_tables_j: dict[str, float]
    sources: dict[str, dict[str, int]]
    simulated_time_s: float
    wall_s: float
    batched: int = 0
    channels_last: bool = False
    compute: Compute = "float32"


@dataclass
class _Sums:
    """The running sums of one group."""

    profile: str
    clients: set[int] = field(default_factory=set)
    figures: list[Any] = field(default_factory=lambda: [0] * len(SUMMED))
    updates: int = 0
    attempts: int = 0
    memory_bytes: int = 0
    bits: float = 0.0
    bits_rows: int = 0

    def add(self, row: LedgerRow, figures: Sequence[Any]) -> None:
        self.clients.add(row.client)
        self.attempts += 1
        self.memory_bytes = max(self.memory_bytes, row.memory_bytes)
        self.figures = list(map(add, self.figures, figures))
        if row.status == "ok":
            self.updates += 1
            if row.mean_bits is not None:
                self.bits += row.mean_bits
                self.bits_rows += 1

    def freeze(self, group: str) -> GroupTotals:
        return GroupTotals(
            group,
            self.profile,
            len(self.clients),
            self.updates,
            self.attempts,
            memory_bytes=self.memory_bytes,
            mean_bits=self.bits / self.bits_rows if self.bits_rows else None,
            **dict(zip(SUMMED, self.figures, strict=True)),
        )


class Totals:
    """Running sums over the ledger; rounds added in the same order give the same bits."""

    def __init__(self) -> None:
        self._all = _Sums("")
        self._groups: dict[str, _Sums] = {}
        self._statuses: Counter[str] = Counter()
        self._causes: dict[tuple[str, str], tuple[str, Counter[int]]] = {}
        self._tables = dict.fromkeys(TABLES, 0.0)
        self._batched = 0
        self._sources: dict[str, Counter[str]] = {cost: Counter() for cost in COSTS}

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Add all rows of one round, in any order."""
        for row in in_order(rows):
            figures = _figures(row)
            if row.group not in self._groups:
                self._groups[row.group] = _Sums(row.profile)
            for sums in (self._all, self._groups[row.group]):
                sums.add(row, figures)
            self._statuses[row.status] += 1
            self._batched += row.batched_clients > 0
            if row.status != "ok":
                self._causes.setdefault((row.status, _NUMBER.sub("", row.reason)), (row.reason, Counter()))[1][row.client] += 1
            for table, joules in zip(TABLES, _tables(row), strict=True):
                self._tables[table] += joules
            for cost, figure, source in zip(COSTS, _costs(row), _sources(row), strict=True):
                if figure:
                    self._sources[cost][source] += 1

    def summarise(
        self,
        rounds: Sequence[RoundRecord],
        clients: Sequence[ClientRecord],
        *,
        channels_last: bool = False,
        compute: Compute = "float32",
    ) -> Summary:
        """Put the sums, the rounds and the clients' final accuracies together."""
        scored = [(record.accuracy, record) for record in rounds if record.accuracy is not None]
        accuracy, last = scored[-1] if scored else (None, None)
        best_accuracy, best = max(scored, key=lambda pair: pair[0], default=(None, None))
        return Summary(
            rounds=len(rounds),
            accuracy=accuracy,
            loss=last.loss if last else None,
            best_accuracy=best_accuracy,
            best_round=best.round if best else None,
            client_accuracy=_spread(_accuracies(clients)),
            total=_with_clients(self._all.freeze("all"), clients),
            groups=self._group_totals(clients),
            statuses=dict(sorted(self._statuses.items())),
            causes=self._sorted_causes(),
            energy_tables_j=dict(self._tables),
            sources={cost: dict(sorted(counts.items())) for cost, counts in self._sources.items()},
            simulated_time_s=rounds[-1].clock_s if rounds else 0.0,
            wall_s=sum(record.wall_s for record in rounds),
            batched=self._batched,
            channels_last=channels_last,
            compute=compute,
        )

    def _group_totals(self, clients: Sequence[ClientRecord]) -> tuple[GroupTotals, ...]:
        members: dict[str, list[ClientRecord]] = {}
        for client in clients:
            members.setdefault(client.group, []).append(client)
        found = {group: sums.freeze(group) for group, sums in self._groups.items()}
        empty = {group: GroupTotals(group, of[0].profile) for group, of in members.items()}
        return tuple(_with_clients(found.get(group) or empty[group], members.get(group, ())) for group in {**empty, **found})

    def _sorted_causes(self) -> tuple[Cause, ...]:
        causes = [
            Cause(status, reason, clients.total(), tuple(sorted(clients)))
            for (status, _), (reason, clients) in self._causes.items()
        ]
        return tuple(sorted(causes, key=lambda cause: (-cause.count, cause.status, cause.reason)))


def in_order(rows: Iterable[LedgerRow]) -> list[LedgerRow]:
    """Return ledger rows in their canonical order, which does not depend on who answered first."""
    return sorted(rows, key=_place)


def _accuracies(clients: Sequence[ClientRecord]) -> list[float]:
    return [client.accuracy for client in clients if client.accuracy is not None]


def _with_clients(totals: GroupTotals, clients: Sequence[ClientRecord]) -> GroupTotals:
    """Complete a group's totals by what is known of its clients; without records, the clients seen in the ledger count."""
    if not clients:
        return totals
    spread = _spread(_accuracies(clients))
    return replace(totals, clients=len(clients), accuracy=spread.mean if spread else None)


def _spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    low, p10, median, p90, high = (float(value) for value in np.quantile(values, (0, 0.1, 0.5, 0.9, 1)))
    return Spread(len(values), float(np.mean(values)), low, p10, median, p90, high)


def round_record(
    number: int,
    rows: Sequence[LedgerRow],
    accuracy: float | None,
    loss: float | None,
    wish: dict[str, int],
    cohort: int,
    *,
    time_s: float,
    clock_s: float,
    wall_s: float,
) -> RoundRecord:
    """Add up one round's rows; accuracy and loss are of the global model, None if it was not evaluated."""
    ok = [row for row in rows if row.status == "ok"]
    samples = sum(row.samples for row in ok)
    return RoundRecord(
        round=number,
        accuracy=accuracy,
        loss=loss,
        train_loss=sum((row.train_loss or 0.0) * row.samples for row in ok) / samples if samples else None,
        mean_bits=sum(row.mean_bits or 0.0 for row in ok) / len(ok) if ok else None,
        wish_bits=wish,
        cohort=cohort,
        ok=len(ok),
        failed=sum(row.status in ("failed", "rejected") for row in rows),
        late=sum(row.status == "late" for row in rows),
        energy_j=sum(row.energy_j for row in rows),
        time_s=time_s,
        clock_s=clock_s,
        downlink_bytes=sum(row.downlink_bytes for row in rows),
        uplink_bytes=sum(row.uplink_bytes for row in rows),
        memory_bytes=max((row.memory_bytes for row in rows), default=0),
        wall_s=wall_s,
    )
