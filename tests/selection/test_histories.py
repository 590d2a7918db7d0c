"""fedapt.selection.history: what is known after which rows."""

import random

from fedapt.cost.ledger import LedgerRow
from fedapt.selection.history import UNKNOWN, Histories, History


def row(round, client, status="ok", attempt=0, **more):
    return LedgerRow(round, client, attempt, "pis", "raspberry-pi-4", status, **more)


def test_nothing_is_known_of_a_client_that_was_never_asked():
    assert Histories()[5] == UNKNOWN == History(times=0, last_round=None, loss=None, time_s=None, energy_j=None)


def test_the_newest_update_tells_the_loss_and_the_cost():
    known = Histories()
    known.add([row(0, 1, train_loss=2.0, time_s=3.0, energy_j=0.5)])
    known.add([row(4, 1, train_loss=1.5, time_s=2.0, energy_j=0.25)])
    assert known[1] == History(2, 4, 1.5, 2.0, 0.25)


def test_attempts_of_one_round_count_once_and_their_costs_add_up():
    known = Histories()
    known.add([row(2, 1, "failed", time_s=1.0, energy_j=0.5), row(2, 1, attempt=1, train_loss=1.0, time_s=4.0, energy_j=2.0)])
    assert known[1] == History(1, 2, 1.0, 5.0, 2.5)


def test_an_update_that_was_not_admitted_tells_no_loss_and_one_that_never_came_tells_no_duration():
    known = Histories()
    known.add([row(0, client, train_loss=2.0, time_s=3.0, energy_j=1.0) for client in range(5)])
    lost = ("rejected", "late", "dropped", "failed", "refused")
    known.add([row(1, client, status, train_loss=9.0, time_s=7.0, energy_j=4.0) for client, status in enumerate(lost)])
    assert known[1] == History(2, 1, 2.0, 7.0, 4.0)
    assert all(known[client] == History(2, 1, 2.0, 3.0, 1.0) for client in (0, 2, 3, 4))


def test_a_loss_that_is_no_number_is_not_taken_for_one():
    known = Histories()
    known.add([row(0, 1, train_loss=float("nan"), time_s=1.0)])
    assert known[1].loss is None and known[1].time_s == 1.0


def test_rounds_given_one_by_one_or_all_at_once_in_any_order_make_the_same_histories():
    statuses = ("ok", "late", "failed", "refused", "rejected", "dropped")
    draw = random.Random(1)
    rounds = [
        [row(n, c, draw.choice(statuses), a, train_loss=draw.random(), time_s=draw.random()) for c in range(6) for a in range(2)]
        for n in range(8)
    ]
    one_by_one, at_once = Histories(), Histories()
    for rows in rounds:
        one_by_one.add(rows)
    everything = [row for rows in rounds for row in rows]
    draw.shuffle(everything)
    at_once.add(everything)
    assert all(one_by_one[client] == at_once[client] for client in range(6))
