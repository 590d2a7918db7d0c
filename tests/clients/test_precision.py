"""fedapt.clients.precision: the exam that every policy takes, and the rule of each by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedapt.clients.precision import POLICIES
from fedapt.clients.precision.apt import Apt
from fedapt.clients.precision.budget import Budget
from fedapt.clients.precision.evidence import Evidence
from fedapt.clients.precision.fixed import Fixed
from fedapt.clients.precision.fp32 import Fp32
from fedapt.clients.precision.muppet import Muppet, gradient_diversity
from fedapt.clients.precision.pfq import Pfq
from fedapt.clients.precision.policy import Wish
from fedapt.clients.precision.qat import Qat
from fedapt.clients.precision.rct import Rct
from fedapt.errors import ScenarioError
from fedapt.quant import GridOptions

LAYERS = ["conv1", "conv2", "dense"]
WIDTHS = {*range(2, 17), 32}
EXAM = pytest.mark.parametrize("kind", POLICIES)


def evidence(gavg=None, lr=0.1, step=None, weights=None, **more):
    """Return the evidence of a round; gavg and step are by layer, at 8 bits."""
    gavg = gavg or {}
    step, weights = step or dict.fromkeys(gavg, 0.01), weights or dict.fromkeys(gavg, 100)
    return Evidence(lr, GridOptions(), gavg, step, weights, **({"updates": 10} | more))


def after(policy, bits, gavg, lr=0.1, **more):
    """Return the bits that a policy asks for after a round."""
    return policy.adapt(Wish(bits), evidence(gavg, lr, **more)).bits


@EXAM
def test_a_policy_is_chosen_by_its_kind_alone_and_keeps_its_options(kind):
    policy = POLICIES[kind]()
    assert policy.kind == kind and POLICIES[kind].model_validate(policy.model_dump()) == policy
    assert POLICIES[kind].__doc__ and policy.rounding in {"truncate", "nearest", "stochastic"}
    assert policy.scope == "federation" and policy.grid.granularity == "channel" and policy.grid.range == "symmetric"


@EXAM
def test_a_policy_starts_with_a_width_for_each_layer_in_their_order(kind):
    start = POLICIES[kind]().start(LAYERS)
    assert list(start) == LAYERS and set(start.values()) <= WIDTHS
    assert POLICIES[kind]().start([]) == {}


@EXAM
@given(gavg=st.dictionaries(st.sampled_from(LAYERS), st.floats(0, 1e6)), lr=st.floats(1e-6, 10), loss=st.floats(0, 10))
def test_a_policy_keeps_layers_and_widths_and_changes_nothing_that_it_was_given(kind, gavg, lr, loss):
    policy = POLICIES[kind]()
    wish = Wish(policy.start(LAYERS))
    for _ in range(8):
        before, memory = dict(wish.bits), repr(wish.memory)
        seen = evidence(gavg, lr, train_loss=loss, update={name: np.ones(3) for name in LAYERS})
        new = policy.adapt(wish, seen)
        assert list(new.bits) == LAYERS and set(new.bits.values()) <= WIDTHS
        assert wish.bits == before and repr(wish.memory) == memory
        assert policy.adapt(wish, seen).bits == new.bits and bool(new.why) == (new.bits != before)
        assert all(value > 0 for value in new.sensitivity.values())
        wish = new


@EXAM
def test_a_policy_refuses_unknown_options_roundings_and_scopes(kind):
    for wrong in ({"bitz": 4}, {"rounding": "floor"}, {"scope": "cohort"}, {"kind": "other"}, {"grid": {"headroom": 0.5}}):
        with pytest.raises(ValidationError):
            POLICIES[kind].model_validate(wrong)


@pytest.mark.parametrize("policy", [Apt(), Rct(), Budget()])
def test_a_policy_that_watches_gavg_moves_no_layer_that_was_not_observed_and_none_by_more_than_a_bit(policy):
    bits = {"conv1": 6, "conv2": 7, "dense": 5}
    for gavg in (1e-6, 1e6):
        moved = after(policy, bits, {"conv1": gavg, "dense": gavg})
        assert moved["conv2"] == 7 and all(abs(moved[name] - bits[name]) <= 1 for name in LAYERS)


def test_apt_starts_at_six_bits_and_truncates():
    assert Apt().start(LAYERS) == {"conv1": 6, "conv2": 6, "dense": 6} and Apt().rounding == "truncate"
    assert Apt(first_bits=9).start(["a"]) == {"a": 9}


@pytest.mark.parametrize(("gavg", "expected"), [(0.0, 9), (5.99, 9), (6.0, 8), (6.01, 8), (1e9, 8)])
def test_apt_gives_one_bit_more_below_t_min_and_never_less_by_default(gavg, expected):
    assert after(Apt(), {"a": 8}, {"a": gavg}) == {"a": expected}


@pytest.mark.parametrize(("gavg", "expected"), [(1.0, 9), (2.0, 8), (3.0, 8), (8.0, 8), (8.1, 7)])
def test_apt_takes_a_bit_above_t_max_where_there_is_one(gavg, expected):
    assert after(Apt(t_min=2.0, t_max=8.0), {"a": 8}, {"a": gavg}) == {"a": expected}


def test_rct_has_both_thresholds_and_a_layer_that_gave_a_bit_up_does_not_ask_for_it_again():
    assert after(Rct(), {"a": 8}, {"a": 24.5}) == {"a": 7} and after(Rct(), {"a": 8}, {"a": 5.9}) == {"a": 9}
    assert after(Rct(), {"a": 7}, {"a": 24.5}) == {"a": 7}  # at 7 bits its Gavg is 24.5 * 63 / 127 = 12.2


def test_apt_stays_within_2_and_16_bits():
    policy = Apt(t_min=2.0, t_max=8.0)
    # Gavg at 8 bits: at 2 bits 1/127 of it, at 16 bits 32767/127.
    assert after(policy, {"low": 2, "high": 16}, {"low": 9.0 * 127, "high": 1.0 / 258}) == {"low": 2, "high": 16}
    assert after(policy, {"low": 2, "high": 16}, {"low": 1.0 * 127, "high": 9.0 / 258}) == {"low": 3, "high": 15}


@pytest.mark.parametrize(("lr", "expected"), [(0.1, 8), (0.01, 9)])
def test_measured_in_steps_apt_compares_the_mean_update_in_codes(lr, expected):
    # A Gavg of 7 is 0.7 codes a step at lr 0.1 and 0.07 at lr 0.01; by the gradient both are above 6.
    assert after(Apt(measure="step", t_min=0.6), {"a": 8}, {"a": 7.0}, lr) == {"a": expected}
    assert after(Apt(), {"a": 8}, {"a": 7.0}, lr) == {"a": 8}


def test_apt_rises_until_the_layer_can_learn():
    # A gradient of 0.1 on a range of 1: Gavg is 0.1 * (2**(k-1) - 1), above 6 from 7 bits on.
    wish = Wish({"a": 3})
    for _ in range(10):
        wish = Apt().adapt(wish, evidence({"a": 0.1 * 127}))
    assert wish.bits == {"a": 7}


def test_apt_adapts_at_its_interval_only():
    wish, widths = Wish({"a": 3}), []
    for _ in range(6):
        wish = Apt(every=3).adapt(wish, evidence({"a": 0.1}))
        widths.append(wish.bits["a"])
    assert widths == [3, 3, 4, 4, 4, 5]


@pytest.mark.parametrize("wrong", [{"first_bits": 1}, {"first_bits": 17}, {"t_min": -1.0}, {"t_max": 0.0}, {"measure": "codes"}])
def test_apt_refuses_options_that_make_no_sense(wrong):
    with pytest.raises(ValidationError):
        Apt(**wrong)


def test_budget_refuses_to_ask_for_at_least_more_than_at_most():
    assert Budget(least_bits=6, most_bits=6).start(["a"]) == {"a": 6}
    with pytest.raises(ValidationError, match="`least_bits` 4 is above `most_bits` 3"):
        Budget(most_bits=3)


def test_budget_asks_for_a_bit_more_where_updates_are_too_small_a_part_of_a_code():
    # lr * Gavg at 4 bits is 0.1 * g * 7 / 127; ten updates need 0.015, which is at g = 2.721.
    assert after(Budget(), {"a": 4}, {"a": 2.71}) == {"a": 5} and after(Budget(), {"a": 4}, {"a": 2.73}) == {"a": 4}


def test_budget_gives_a_bit_up_only_with_a_quarter_to_spare():
    # At 3 bits lr * Gavg is 0.1 * g * 3 / 127, and 1.25 * 0.015 is reached at g = 7.938.
    policy = Budget(least_bits=3)
    assert after(policy, {"a": 4}, {"a": 7.93}) == {"a": 4} and after(policy, {"a": 4}, {"a": 7.94}) == {"a": 3}


def test_budget_gives_a_layer_whose_codes_weigh_sixteen_times_the_mean_two_bits_more():
    # The small layer's e is 16 times that of the large one, which makes the mean: it needs 4 times the step.
    gavg, step = {"small": 1.0, "large": 1.0}, {"small": 0.04, "large": 0.01}
    wish = Wish({"small": 4, "large": 4})
    for _ in range(6):
        wish = Budget().adapt(wish, evidence(gavg, step=step, weights={"small": 1, "large": 10**6}))
    # 0.015 is first exceeded at 6 bits (0.1 * 31 / 127 = 0.024), 0.06 at 8 bits (0.1).
    assert wish.bits == {"small": 8, "large": 6}


def test_budget_asks_for_more_bits_the_fewer_updates_are_averaged():
    # At 6 bits lr * Gavg is 0.1 * 4 * 31 / 127 = 0.0976: too little for a client alone, enough for two, which need 0.075.
    assert after(Budget(), {"a": 6}, {"a": 4.0}, updates=1) == {"a": 7}
    assert after(Budget(), {"a": 6}, {"a": 4.0}, updates=2) == {"a": 6}
    assert after(Budget(), {"a": 6}, {"a": 4.0}, updates=10) == {"a": 5}


def test_budget_stays_within_its_bounds():
    assert Budget(least_bits=5).start(["a"]) == {"a": 5} and Budget().lowest == 3
    assert after(Budget(most_bits=6), {"a": 6}, {"a": 1e-9}) == {"a": 6}
    assert after(Budget(), {"a": 4}, {"a": 1e9}) == {"a": 4}


def test_gradient_diversity_is_one_over_r_for_equal_updates_and_one_for_orthogonal_ones():
    one, other = np.array([3.0, 0.0]), np.array([0.0, 4.0])
    assert gradient_diversity({"a": 3 * one}, {"a": 27.0}) == pytest.approx(1 / 3)
    assert gradient_diversity({"a": one + other}, {"a": 25.0}) == pytest.approx(1.0)
    assert gradient_diversity({"a": 3 * one, "b": one + other}, {"a": 27.0, "b": 25.0}) == pytest.approx(2 / 3)


def test_muppet_climbs_after_its_violations_and_not_before():
    # Orthogonal updates set S to 1; equal ones have GD 1/2, and S / GD = 2 exceeds 1 + 1.5 exp(-0.1 e) from e = 5 on.
    policy, wish = Muppet(window=2), Wish(Muppet().start(["a"]))
    ways = [(1.0, 0.0), (0.0, 1.0)] + [(1.0, 0.0)] * 8
    widths = []
    for way in ways:
        wish = policy.adapt(wish, evidence(update={"a": np.array(way)}))
        widths.append(wish.bits["a"])
    assert widths == [4, 4, 4, 4, 4, 4, 4, 6, 6, 6]


def test_pfq_turns_when_the_loss_stands_still_and_not_beyond_its_last_stage():
    policy, wish, widths = Pfq(stages=[3, 4]), Wish({"a": 3}), []
    for loss in (2.0, 1.0, 0.99, 0.98, 0.97, 0.97, 0.97, 0.97, 0.97, 0.97, 0.97, 0.97):
        wish = policy.adapt(wish, evidence(train_loss=loss))
        widths.append(wish.bits["a"])
    assert widths == [3] * 5 + [4] * 7


def test_pfq_becomes_stricter_after_each_of_the_first_two_turns():
    # From 1.0 to 0.9 is 10 % of the scale: a turn at epsilon 0.15, none at 0.06.
    policy, losses = Pfq(), [1.0, 1.0, 1.0, 1.0, 0.9]
    wish = Wish(policy.start(["a"]))
    for loss in losses:
        wish = policy.adapt(wish, evidence(train_loss=loss))
    assert wish.bits == {"a": 4}
    for loss in losses:
        wish = policy.adapt(wish, evidence(train_loss=loss))
    assert wish.bits == {"a": 4}


def test_fixed_has_the_same_bits_for_all_layers_or_others_for_those_named():
    assert Fixed().start(LAYERS) == {"conv1": 4, "conv2": 4, "dense": 4} and Fixed().rounding == "stochastic"
    assert Fixed(bits=3, layers={"conv1": 8}).start(LAYERS) == {"conv1": 8, "conv2": 3, "dense": 3}
    assert after(Fixed(), {"a": 4}, {"a": 0.0}) == {"a": 4}


def test_fixed_names_the_layers_that_the_model_does_not_have_and_those_it_has():
    with pytest.raises(ScenarioError, match=r"the model has no layer conv3, head; it has conv1, conv2, dense"):
        Fixed(layers={"head": 8, "conv3": 4, "conv1": 8}).start(LAYERS)


@pytest.mark.parametrize("bits", [0, 1, 17, 32, 4.0, "4"])
def test_fixed_refuses_widths_that_codes_cannot_have(bits):
    for wrong in ({"bits": bits}, {"layers": {"a": bits}}):
        with pytest.raises(ValidationError):
            Fixed(**wrong)


def test_fp32_is_float_stays_so_and_gives_no_bit_up():
    assert Fp32().start(LAYERS) == {"conv1": 32, "conv2": 32, "dense": 32} and Fp32().ladder == ()
    assert after(Fp32(), {"a": 32}, {"a": 0.0}) == {"a": 32}


def test_qat_keeps_a_master_and_its_bits():
    assert Qat().start(LAYERS) == {"conv1": 8, "conv2": 8, "dense": 8} and Qat().master and Qat().ladder == ()
