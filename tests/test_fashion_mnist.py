"""What low bits cost in accuracy on Fashion-MNIST: means over three seeds, by the shipped benchmark (about fifteen minutes)."""

from functools import cache

import pytest

from bench.fashion_mnist import ARMS, DATA, measure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there"),
    pytest.mark.filterwarnings("ignore"),
]
SEEDS = range(3)


@cache
def mean(policy, figure="accuracy"):
    return sum(result(policy, seed)[figure] for seed in SEEDS) / len(SEEDS)


@cache
def result(policy, seed):
    return measure(policy, seed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("policy", ARMS)
def test_every_run_finishes(policy, seed):
    assert result(policy, seed)["accuracy"] >= 0.1


def test_apt_ends_within_three_points_of_fp32_and_its_bits_rise_from_six():
    assert mean("apt, T_min 6") > mean("fp32, lr 0.1") - 0.03
    assert mean("apt, T_min 6", "first_bits") == 6 and mean("apt, T_min 6", "last_bits") > 8


def test_four_bits_end_within_a_point_of_fp32():
    assert mean("fixed 4") > mean("fp32, lr 0.05") - 0.01


def test_four_bits_per_tensor_do_not():
    assert mean("fixed 4, per tensor") < mean("fp32, lr 0.05") - 0.01


def test_four_bits_truncating_do_not_learn():
    assert mean("fixed 4, truncating") < 0.3
