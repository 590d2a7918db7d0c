from dataclasses import replace

import pytest

from fedapt.cost.ledger import ClientRecord, LedgerRow, RoundRecord
from fedapt.record.totals import Cause, Totals, in_order, round_record

ROW = LedgerRow(
    0, 0, 1, "pi", "raspberry-pi-4", "ok", mean_bits=6.0, energy_j=2.0, time_s=3.0, downlink_bytes=100, memory_bytes=7
)
REFUSED = LedgerRow(0, 5, 1, "tiny", "stm32h7", "refused", "needs 2 MiB")
RECORD = RoundRecord(0, 0.5, 1.0, 1.2, 6.0, {}, 2, 2, 0, 0, 4.0, 3.0, 3.0, 100, 0, 7, 0.25)


def client(number: int, accuracy: float | None, group: str = "pi") -> ClientRecord:
    return ClientRecord(number, group, "raspberry-pi-4", 10, 1, 1, accuracy, 6.0, 2.0, "ok", "")


def test_sums_peaks_and_means_are_those_of_a_hand_count() -> None:
    totals = Totals()
    totals.add([ROW, replace(ROW, client=1, mean_bits=8.0, energy_j=0.5, memory_bytes=9)])
    totals.add([replace(ROW, round=1, client=1, mean_bits=10.0, energy_j=1.25, downlink_bytes=50)])
    total = totals.summarise([RECORD], ()).total
    assert (total.energy_j, total.time_s, total.downlink_bytes, total.memory_bytes) == (3.75, 9.0, 250, 9)
    assert (total.clients, total.updates, total.attempts, total.mean_bits) == (2, 3, 3, 8.0)


def test_failed_attempts_are_charged_but_do_not_count_as_updates() -> None:
    totals = Totals()
    totals.add([replace(ROW, status="failed", reason="out of memory", mean_bits=2.0), replace(ROW, attempt=2)])
    summary = totals.summarise([RECORD], ())
    assert (summary.total.energy_j, summary.total.updates, summary.total.mean_bits) == (4.0, 1, 6.0)
    assert summary.statuses == {"failed": 1, "ok": 1}


def test_the_federation_took_what_its_clock_showed_at_the_end() -> None:
    first = round_record(0, [ROW], 0.5, 1.0, {}, 2, time_s=7.0, clock_s=7.0, wall_s=0.1)
    second = round_record(1, [ROW, replace(ROW, client=1, status="late")], 0.5, 1.0, {}, 2, time_s=1.5, clock_s=10.0, wall_s=0.1)
    assert (first.late, second.late, second.time_s) == (0, 1, 1.5)
    assert Totals().summarise([first, second], ()).simulated_time_s == 10.0


def test_causes_are_counted_and_name_their_clients() -> None:
    totals = Totals()
    totals.add([REFUSED, replace(REFUSED, client=3), replace(ROW, status="failed", reason="died")])
    totals.add([replace(REFUSED, round=1)])
    causes = totals.summarise([RECORD], ()).causes
    assert causes == (Cause("refused", "needs 2 MiB", 3, (3, 5)), Cause("failed", "died", 1, (0,)))


def test_a_group_that_was_never_asked_is_listed_with_its_clients() -> None:
    totals = Totals()
    totals.add([ROW])
    groups = totals.summarise([RECORD], [client(0, 0.5), client(1, None), client(2, 0.9, "idle")]).groups
    assert [(group.group, group.clients, group.accuracy, group.energy_j) for group in groups] == [
        ("pi", 2, 0.5, 2.0),
        ("idle", 1, 0.9, 0.0),
    ]


def test_the_spread_is_over_clients_that_were_evaluated() -> None:
    clients = [client(number, number / 10) for number in range(11)]
    spread = Totals().summarise([RECORD], [*clients, client(11, None)]).client_accuracy
    assert (spread.clients, spread.mean, spread.p10, spread.median, spread.p90) == pytest.approx((11, 0.5, 0.1, 0.5, 0.9))
    assert (spread.min, spread.max) == (0.0, 1.0)


def test_accuracy_is_that_of_the_last_evaluation_and_the_best_keeps_its_round() -> None:
    records = [replace(RECORD, round=n, accuracy=reached) for n, reached in enumerate((0.2, 0.9, 0.7, None))]
    summary = Totals().summarise(records, ())
    assert (summary.rounds, summary.accuracy, summary.best_accuracy, summary.best_round, summary.wall_s) == (4, 0.7, 0.9, 1, 1.0)


def test_nothing_committed_is_a_summary_without_figures() -> None:
    summary = Totals().summarise((), ())
    assert (summary.rounds, summary.accuracy, summary.best_round, summary.total.mean_bits) == (0, None, None, None)


def test_only_rows_that_spent_something_say_where_a_cost_comes_from() -> None:
    totals = Totals()
    totals.add([replace(ROW, energy_source="measured"), REFUSED])
    sources = totals.summarise([RECORD], ()).sources
    assert sources == {"energy": {"measured": 1}, "time": {"modelled": 1}, "memory": {"modelled": 1}, "bytes": {"measured": 1}}


def test_each_energy_table_has_its_own_total() -> None:
    totals = Totals()
    totals.add([replace(ROW, energy_linear_j=1.0, energy_horowitz_j=2.0, energy_bitops_j=4.0)] * 2)
    assert totals.summarise([RECORD], ()).energy_tables_j == {"linear": 2.0, "horowitz": 4.0, "bitops": 8.0}


def test_the_order_of_answers_changes_no_bit_of_the_sums() -> None:
    rows = [replace(ROW, client=number, energy_j=0.1 * number, time_s=1 / (number + 1)) for number in range(50)]
    forward, backward = Totals(), Totals()
    forward.add(rows)
    backward.add(reversed(rows))
    assert forward.summarise([RECORD], ()) == backward.summarise([RECORD], ())


def test_rows_are_ordered_by_round_client_and_attempt() -> None:
    rows = [replace(ROW, client=2), replace(ROW, client=1, attempt=2), replace(ROW, client=1), replace(ROW, round=1, client=0)]
    assert [(row.round, row.client, row.attempt) for row in in_order(reversed(rows))] == [
        (0, 1, 1),
        (0, 1, 2),
        (0, 2, 1),
        (1, 0, 1),
    ]


def test_reasons_that_differ_in_numbers_alone_are_one_cause() -> None:
    reasons = ["needs 950 uJ for a round, has 12 uJ", "needs 1.2 mJ for a round, has 0 J", "needs 3 KiB of memory, has 2 KiB"]
    totals = Totals()
    totals.add([LedgerRow(0, client, 0, "a", "p", "refused", reason) for client, reason in enumerate(reasons)])
    assert [(cause.reason, cause.count, cause.clients) for cause in totals.summarise([], []).causes] == [
        (reasons[0], 2, (0, 1)),
        (reasons[2], 1, (2,)),
    ]


def test_clients_that_were_trained_together_are_counted():
    totals = Totals()
    totals.add([ROW, replace(ROW, client=8, batched_clients=2), replace(ROW, client=9, batched_clients=2)])
    assert totals.summarise([], ()).batched == 2
