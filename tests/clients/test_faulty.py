"""Faults are drawn from their own streams: the same on every machine, and one moves no other."""

import pytest
from pydantic import ValidationError

from fedapt.clients.faulty import Faults, drawn, slowed
from fedapt.cost.profiles import COEFFICIENTS, Calibration, load_profile

CLIENTS = range(2000)


def test_a_chance_is_met_within_four_sigmas_and_drawn_anew_each_round():
    rounds = [{client for client in CLIENTS if drawn(0.1, 7, "drop", number, client)} for number in (0, 1)]
    for dropped in rounds:
        assert abs(len(dropped) - 200) < 4 * (2000 * 0.1 * 0.9) ** 0.5
    assert rounds[0] != rounds[1]
    assert rounds[0] == {client for client in CLIENTS if drawn(0.1, 7, "drop", 0, client)}


def test_a_higher_chance_adds_clients_and_takes_none_away():
    few, many = ({client for client in CLIENTS if drawn(chance, 0, "nan", 3, client)} for chance in (0.1, 0.2))
    assert few < many


def test_two_faults_hit_different_clients():
    flipped = {client for client in CLIENTS if drawn(0.2, 0, "sign_flip", client)}
    assert flipped != {client for client in CLIENTS if drawn(0.2, 0, "slow", client)}


def test_no_chance_never_happens_and_a_sure_one_always():
    assert not any(drawn(0.0, 0, "drop", client) for client in CLIENTS)
    assert all(drawn(1.0, 0, "drop", client) for client in CLIENTS)


def test_a_liar_multiplies_by_both_of_its_factors():
    faults = Faults.model_validate({"sign_flip": 1.0, "scale": {"share": 1.0, "factor": 5.0}})
    assert faults.update_factor(0, 3) == -5
    assert Faults().update_factor(0, 3) == 1


def test_a_slow_device_takes_longer_at_the_same_energy():
    profile = load_profile("raspberry-pi-4")
    slow = slowed(profile, 20)
    assert slow.fp32_macs_per_s.value == profile.fp32_macs_per_s.value / 20
    assert slow.uplink_bytes_per_s.value == profile.uplink_bytes_per_s.value / 20
    assert slow.fp32_mac_energy == profile.fp32_mac_energy and slow.memory == profile.memory


def test_a_slow_device_that_is_calibrated_takes_longer_too():
    seconds = dict.fromkeys(COEFFICIENTS, 0.5)
    errors = {"unseen_error": 0.1, "left_out_error": 0.2, "unseen_error_by_family": {}, "left_out_error_by_family": {}}
    calibration = Calibration.model_validate(seconds | errors | {"source": "round numbers for tests"})
    slow = slowed(load_profile("raspberry-pi-4").model_copy(update={"calibration": calibration}), 20)
    assert slow.calibration is not None
    assert slow.calibration.coefficients == dict.fromkeys(COEFFICIENTS, 10.0)
    assert slow.calibration.unseen_error == 0.1


@pytest.mark.parametrize("wrong", [{"drop": 1.1}, {"drop": -0.1}, {"droop": 0.1}, {"error": 0.1}, {"slow": {"share": 0.1}}])
def test_impossible_faults_are_refused(wrong):
    with pytest.raises(ValidationError):
        Faults.model_validate(wrong)
