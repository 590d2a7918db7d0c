"""What must hold after any fault: one helper that every fault test calls."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedapt.cost.ledger import LedgerRow
from fedapt.record.totals import round_record

Arrays = Mapping[str, np.ndarray]
Attempt = tuple[int, int, int]


class Played(NamedTuple):
    """A run: its final model, and its ledger rows in any order."""

    model: Arrays
    rows: Sequence[LedgerRow]


class Fault(NamedTuple):
    """What the ledger must say of one attempt. reason: a regular expression; trained: whether training is charged."""

    status: str
    reason: str
    trained: bool = True


def assert_contained(played: Played, reference: Played, faults: Mapping[Attempt, Fault], canary: Path | None = None) -> None:
    """Check that faults, by (round, client, attempt), have changed nothing but their own rows.

    reference: the run in which the attempts at fault were absent. canary: a file that payloads try to create.
    """
    assert played.model.keys() == reference.model.keys()
    for name, values in reference.model.items():
        assert np.array_equal(played.model[name], values), f"{name} is not what the admitted updates give"
    by_attempt = {(row.round, row.client, row.attempt): row for row in played.rows}
    assert len(by_attempt) == len(played.rows), "an attempt is in the ledger twice"
    assert faults.keys() <= by_attempt.keys(), "an attempt is missing from the ledger"
    others = {attempt: row for attempt, row in by_attempt.items() if attempt not in faults}
    assert others == {(row.round, row.client, row.attempt): row for row in reference.rows}
    for attempt, fault in faults.items():
        _assert_charged_and_named(by_attempt[attempt], fault)
    _assert_sums(played.rows)
    assert canary is None or not canary.exists(), "a payload was executed"


def _assert_charged_and_named(row: LedgerRow, fault: Fault) -> None:
    assert row.status == fault.status
    assert re.search(fault.reason, row.reason), f"expected {fault.reason!r}, the ledger says {row.reason!r}"
    assert row.reason.isprintable() and len(row.reason) <= 500
    assert row.downlink_bytes > 0
    trained = row.steps > 0 and row.macs > 0 and row.energy_compute_j > 0 and row.time_compute_s > 0
    assert trained == fault.trained, "training is charged if, and only if, it took place"
    if fault.status == "rejected":
        assert (row.samples, row.train_loss, row.zero_update, any(row.gavg)) == (0, None, False, False), "it was not admitted"


def _assert_sums(rows: Sequence[LedgerRow]) -> None:
    """A round's record adds up all of its rows, also those at fault."""
    for number in {row.round for row in rows}:
        here = [row for row in rows if row.round == number]
        record = round_record(number, here, None, None, {}, len(here), time_s=1.0, clock_s=2.0, wall_s=0.0)
        assert math.isclose(record.energy_j, math.fsum(row.energy_j for row in here), rel_tol=1e-12)
        assert record.uplink_bytes == sum(row.uplink_bytes for row in here)
        assert record.downlink_bytes == sum(row.downlink_bytes for row in here)
        statuses = [row.status for row in here]
        assert (record.ok, record.failed) == (statuses.count("ok"), statuses.count("failed") + statuses.count("rejected"))
