"""When a round counts: with too few updates it is empty, and too many empty rounds in a row end the run.

An empty round is recorded with its costs and leaves the model as it was, to the last bit. A robust rule that needs more updates
than came is not applied to fewer: it would be another rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fedapt.cost.ledger import LedgerRow
from fedapt.errors import RunFailed
from fedapt.scenario import Failures
from fedapt.strategies.strategy import StrategyOptions


class Quorum:
    """The rule, and how many rounds in a row were empty up to the newest one counted."""

    def __init__(self, failures: Failures, strategy: StrategyOptions) -> None:
        self._failures, self._strategy = failures, strategy
        self._empty = 0

    def shortage(self, rows: Sequence[LedgerRow]) -> str:
        """Return why a round's updates may not be aggregated, with the causes by count; "" if they may."""
        asked = [row for row in rows if row.status != "refused"]
        updates = sum(row.status == "ok" and row.samples > 0 for row in asked)
        came = f"{updates or 'none'} of {len({row.client for row in asked})} clients returned an update"
        if updates < self._strategy.least_updates and updates:
            wanted = f", {self._strategy.kind} with its options needs {self._strategy.least_updates}"
        elif updates < self._failures.min_updates:
            wanted = f", failures.min_updates is {self._failures.min_updates}" if updates else ""
        else:
            return ""
        failed = [row for row in asked if row.status != "ok"]
        return came + wanted + (f": {_causes(failed)}" if failed else "")

    def count(self, rows: Sequence[LedgerRow]) -> None:
        """Take note of a round that was committed."""
        self._empty = self._empty + 1 if self.shortage(rows) else 0

    def check(self, number: int, rows: Sequence[LedgerRow]) -> None:
        """Raise RunFailed if this round, which was counted, is one empty round too many."""
        most = self._failures.max_empty_rounds
        if self._empty > most:
            borne = f"{self._empty} empty rounds in a row, failures.max_empty_rounds is {most}; " if most else ""
            raise RunFailed(f"round {number}: {borne}{self.shortage(rows)}")


def _causes(rows: Sequence[LedgerRow]) -> str:
    """Return the three most frequent causes of failure as part of a sentence."""
    counts = Counter(row.reason for row in rows)
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
