"""fedapt.clients.precision: the exam that every policy takes, and the rule of each by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedapt.clients.precision import POLICIES
from fedapt.clients.precision.apt import Apt
from fedapt.clients.precision.fixed import Fixed
from fedapt.clients.precision.fp32 import Fp32
from fedapt.errors import ScenarioError
from fedapt.quant import GridOptions

LAYERS = ["conv1", "conv2", "dense"]
WIDTHS = {*range(2, 17), 32}
EXAM = pytest.mark.parametrize("kind", POLICIES)


@EXAM
def test_a_policy_is_chosen_by_its_kind_alone_and_keeps_its_options(kind):
    policy = POLICIES[kind]()
    assert policy.kind == kind and POLICIES[kind].model_validate(policy.model_dump()) == policy
    assert POLICIES[kind].__doc__ and policy.rounding in {"truncate", "nearest", "stochastic"}
    assert policy.scope == "federation" and policy.grid == GridOptions(granularity="channel", range="symmetric", headroom=1.5)


@EXAM
def test_a_policy_starts_with_a_width_for_each_layer_in_their_order(kind):
    start = POLICIES[kind]().start(LAYERS)
    assert list(start) == LAYERS and set(start.values()) <= WIDTHS
    assert POLICIES[kind]().start([]) == {}


@EXAM
@given(
    wish=st.dictionaries(st.sampled_from(LAYERS), st.integers(2, 16), min_size=1),
    gavg=st.dictionaries(st.sampled_from([*LAYERS, "gone"]), st.floats(0, 1e6)),
    lr=st.floats(1e-6, 10),
)
def test_a_policy_keeps_layers_and_widths_and_moves_no_layer_that_was_not_observed(kind, wish, gavg, lr):
    before = dict(wish)
    after = POLICIES[kind]().adapt(wish, gavg, lr)
    assert list(after) == list(wish) and set(after.values()) <= WIDTHS and wish == before
    assert all(after[name] == bits for name, bits in wish.items() if name not in gavg)
    assert all(abs(after[name] - bits) <= 1 for name, bits in wish.items())
    assert POLICIES[kind]().adapt(wish, gavg, lr) == after


@EXAM
def test_a_policy_refuses_unknown_options_roundings_and_scopes(kind):
    for wrong in ({"bitz": 4}, {"rounding": "floor"}, {"scope": "cohort"}, {"kind": "other"}, {"grid": {"headroom": 0.5}}):
        with pytest.raises(ValidationError):
            POLICIES[kind].model_validate(wrong)


def test_apt_starts_at_six_bits_and_truncates():
    assert Apt().start(LAYERS) == {"conv1": 6, "conv2": 6, "dense": 6} and Apt().rounding == "truncate"
    assert Apt(first_bits=9).start(["a"]) == {"a": 9}


@pytest.mark.parametrize(("gavg", "expected"), [(0.0, 7), (5.99, 7), (6.0, 6), (6.01, 6), (1e9, 6)])
def test_apt_gives_one_bit_more_below_t_min_and_never_less_by_default(gavg, expected):
    assert Apt().adapt({"a": 6}, {"a": gavg}, 0.1) == {"a": expected}


@pytest.mark.parametrize(("gavg", "expected"), [(1.0, 5), (2.0, 4), (3.0, 4), (8.0, 4), (8.1, 3)])
def test_apt_takes_a_bit_above_t_max_where_there_is_one(gavg, expected):
    assert Apt(t_min=2.0, t_max=8.0).adapt({"a": 4}, {"a": gavg}, 0.1) == {"a": expected}


def test_apt_stays_within_2_and_16_bits():
    policy = Apt(t_min=2.0, t_max=8.0)
    assert policy.adapt({"low": 2, "high": 16}, {"low": 9.0, "high": 1.0}, 0.1) == {"low": 2, "high": 16}
    assert policy.adapt({"low": 2, "high": 16}, {"low": 1.0, "high": 9.0}, 0.1) == {"low": 3, "high": 15}


def test_apt_decides_layer_by_layer_and_leaves_out_what_was_not_observed():
    wish = {"conv1": 6, "conv2": 7, "dense": 8}
    assert Apt().adapt(wish, {"conv1": 1.0, "dense": 100.0}, 0.1) == {"conv1": 7, "conv2": 7, "dense": 8}


@pytest.mark.parametrize(("lr", "expected"), [(0.1, 6), (0.01, 7)])
def test_measured_in_steps_apt_compares_the_mean_update_in_codes(lr, expected):
    # A Gavg of 7 is 0.7 codes a step at lr 0.1 and 0.07 at lr 0.01; by the gradient both are above 6.
    assert Apt(measure="step", t_min=0.6).adapt({"a": 6}, {"a": 7.0}, lr) == {"a": expected}
    assert Apt().adapt({"a": 6}, {"a": 7.0}, lr) == {"a": 6}


def test_apt_rises_until_the_layer_can_learn():
    # A gradient of 0.1 on a range of 1: Gavg is 0.1 * (2**(k-1) - 1), above 6 from 7 bits on.
    wish = {"a": 3}
    for _ in range(10):
        wish = Apt().adapt(wish, {"a": 0.1 * (2 ** (wish["a"] - 1) - 1)}, 0.1)
    assert wish == {"a": 7}


@pytest.mark.parametrize("wrong", [{"first_bits": 1}, {"first_bits": 17}, {"t_min": -1.0}, {"t_max": 0.0}, {"measure": "codes"}])
def test_apt_refuses_options_that_make_no_sense(wrong):
    with pytest.raises(ValidationError):
        Apt(**wrong)


def test_fixed_has_the_same_bits_for_all_layers_or_others_for_those_named():
    assert Fixed().start(LAYERS) == {"conv1": 4, "conv2": 4, "dense": 4} and Fixed().rounding == "stochastic"
    assert Fixed(bits=3, layers={"conv1": 8}).start(LAYERS) == {"conv1": 8, "conv2": 3, "dense": 3}
    assert Fixed().adapt({"a": 4}, {"a": 0.0}, 0.1) == {"a": 4}


def test_fixed_names_the_layers_that_the_model_does_not_have_and_those_it_has():
    with pytest.raises(ScenarioError, match=r"the model has no layer conv3, head; it has conv1, conv2, dense"):
        Fixed(layers={"head": 8, "conv3": 4, "conv1": 8}).start(LAYERS)


@pytest.mark.parametrize("bits", [0, 1, 17, 32, 4.0, "4"])
def test_fixed_refuses_widths_that_codes_cannot_have(bits):
    for wrong in ({"bits": bits}, {"layers": {"a": bits}}):
        with pytest.raises(ValidationError):
            Fixed(**wrong)


def test_fp32_is_float_and_stays_so():
    assert Fp32().start(LAYERS) == {"conv1": 32, "conv2": 32, "dense": 32}
    assert Fp32().adapt({"a": 32}, {"a": 0.0}, 0.1) == {"a": 32}
