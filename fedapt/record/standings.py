"""What each client did in a run, added up round by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fedapt.clients.instructions import EvaluateReport
from fedapt.cost.ledger import ClientRecord, LedgerRow
from fedapt.enrolment import Enrolment


@dataclass
class _Standing:
    rounds: int = 0
    bits: float = 0.0
    energy_j: float = 0.0
    status: str = "idle"
    reason: str = ""


@dataclass
class Standings:
    """One standing for each client that was ever asked; `status` and `reason` are those of its latest attempt."""

    _of: dict[int, _Standing] = field(default_factory=dict)

    def add(self, rows: Iterable[LedgerRow]) -> None:
        """Take the rows of one round, in the order of attempts."""
        for row in rows:
            standing = self._of.setdefault(row.client, _Standing())
            standing.energy_j += row.energy_j
            standing.status, standing.reason = row.status, row.reason
            if row.status == "ok":
                standing.rounds += 1
                standing.bits += row.mean_bits or 0.0

    def records(self, enrolment: Enrolment, scores: Mapping[int, EvaluateReport]) -> list[ClientRecord]:
        """Return one record for each client of the federation, in order."""
        return [self._record(client, enrolment, scores.get(client)) for client in range(len(enrolment.group_of))]

    def _record(self, client: int, enrolment: Enrolment, score: EvaluateReport | None) -> ClientRecord:
        standing = self._of.get(client, _Standing())
        group = enrolment.groups[enrolment.group_of[client]]
        federation = enrolment.workshop.federation
        return ClientRecord(
            client=client,
            group=group.name or group.profile,
            profile=group.profile,
            samples=len(federation.rows[client]),
            held_out=len(federation.held_out[client]),
            rounds=standing.rounds,
            accuracy=score.correct / score.samples if score and score.samples else None,
            mean_bits=standing.bits / standing.rounds if standing.rounds else None,
            energy_j=standing.energy_j,
            status=standing.status,
            reason=standing.reason,
        )
