"""fedapt.grid.batteries: levels by hand."""

from fedapt.cost.ledger import LedgerRow
from fedapt.grid.batteries import Batteries, Battery


def spent(client, energy_j, attempt=1):
    return LedgerRow(0, client, attempt, "phones", "phone", "ok", energy_j=energy_j)


def test_a_battery_drains_by_what_its_client_spent_in_all_attempts_and_then_recharges():
    batteries = Batteries({1: Battery(10.0, recharge_w=0.5), 2: Battery(10.0)}, {1: 8.0, 2: 8.0})
    batteries.pass_round([spent(1, 3.0), spent(1, 1.0, attempt=2)], seconds=4.0)
    assert batteries.level_j == {1: 6.0, 2: 8.0}


def test_no_battery_holds_more_than_its_capacity_or_less_than_nothing():
    batteries = Batteries({1: Battery(10.0, recharge_w=1.0), 2: Battery(10.0)}, {1: 9.5, 2: 1.0})
    batteries.pass_round([spent(2, 3.0)], seconds=100.0)
    assert batteries.level_j == {1: 10.0, 2: 0.0}


def test_training_leaves_the_reserve_alone_and_a_client_on_the_mains_has_no_limit():
    batteries = Batteries({1: Battery(10.0, reserve_j=2.0)}, {1: 7.0})
    assert batteries.usable_j(1) == 5.0 and batteries.usable_j(2) is None
    batteries.level_j[1] = 1.0
    assert batteries.usable_j(1) == 0.0
    batteries.pass_round([spent(2, 5.0)], seconds=1.0)
    assert batteries.level_j == {1: 1.0}


def test_the_charge_is_the_share_of_what_training_may_use_now_or_after_a_while():
    batteries = Batteries({1: Battery(10.0, reserve_j=2.0, recharge_w=0.5)}, {1: 4.0})
    assert batteries.charge(1) == 0.25 and batteries.charge(1, later_s=4.0) == 0.5 and batteries.charge(1, later_s=1e9) == 1.0
    assert batteries.charge(2) is None and batteries.level_j == {1: 4.0}
    batteries.level_j[1] = 1.0
    assert batteries.charge(1) == 0.0 and Batteries({1: Battery(10.0, reserve_j=10.0)}, {1: 10.0}).charge(1) == 0.0
