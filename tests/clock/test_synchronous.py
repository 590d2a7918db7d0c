"""How long a round lasts, and whose updates count in it."""

import pytest

from fedapt.clock.synchronous import Synchronous
from fedapt.cost.ledger import LedgerRow


def row(client, time_s, status="ok", attempt=1):
    return LedgerRow(0, client, attempt, "g", "p", status, time_s=time_s)


ROWS = [row(0, 3.0, "failed"), row(0, 4.0, attempt=2), row(1, 5.0), row(2, 1.0)]


def test_without_a_deadline_the_server_waits_for_all_that_a_client_does():
    assert Synchronous().lasts_s(ROWS, 3) == 3.0 + 4.0
    assert Synchronous().lasts_s([], 3) == 0.0


def test_a_deadline_is_waited_for_only_if_somebody_is_missing():
    clock = Synchronous(deadline_s=9.0)
    assert clock.lasts_s(ROWS, 3) == 7.0
    assert clock.lasts_s([*ROWS, row(3, 20.0, "late")], 4) == 9.0
    assert clock.lasts_s([*ROWS, row(3, 0.1, "dropped")], 4) == 9.0
    assert (clock.too_late(9.0), clock.too_late(9.1)) == ("", "later than the deadline of 9 s of device time")


def test_an_over_selected_round_ends_with_the_last_update_that_it_wanted():
    clock = Synchronous(over_select=0.5)
    assert [clock.asked(wanted) for wanted in (1, 2, 10)] == [2, 3, 15]
    assert clock.too_many({4: 2.0, 1: 2.0, 0: 9.0, 2: 1.0}, 2) == [4, 0]
    assert clock.lasts_s([row(0, 9.0, "late"), row(1, 2.0), row(2, 1.0)], 2) == 2.0
    assert clock.lasts_s([row(0, 9.0), row(1, 2.0, "failed")], 2) == 9.0


def test_thirty_percent_of_ten_is_three():
    assert Synchronous(over_select=0.3).asked(10) == 13


def test_partial_work_needs_a_deadline():
    with pytest.raises(ValueError, match="there is none; give deadline_s"):
        Synchronous(stragglers="partial")
