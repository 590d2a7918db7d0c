"""bench.claims: verdicts by hand, and one small cell for real."""

import dataclasses

import pandas
import pytest

from bench.claims.arms import ARMS, DATA, TASKS
from bench.claims.cell import Cell, measure
from bench.claims.verdicts import beside_float, curves, dominated, verdicts

SAVED = {"linear": 0.5, "horowitz": 0.04, "bitops": 0.03}


def row(arm, accuracy, seed=0, bits=4.0, **more):
    base = {"task": "digits", "setting": "federated", "arm": arm, "seed": seed, "accuracy": accuracy, "bits": bits}
    costs = {"parameter_bits": bits, "gemm_by_weights": SAVED, "gemm_by_operands": SAVED, "moved_to_qat": 0.19}
    return base | costs | {"energy_j": 1.0, "memory_bytes": 100} | more


def of(*rows):
    return {found.claim + found.source: found for found in verdicts(pandas.DataFrame(rows))}


def test_accuracy_is_compared_seed_by_seed():
    rows = pandas.DataFrame([row("fp32", 0.80), row("fp32", 0.70, 1), row("rct", 0.79), row("rct", 0.71, 1)])
    mean, error = beside_float(rows, "rct")
    assert mean == pytest.approx(0.0) and error == pytest.approx(1.0)


def test_a_claim_is_reached_if_it_saves_as_much_and_loses_no_more():
    found = of(row("fp32", 0.80), row("budget 4", 0.796))
    assert found["the same, beyondfedapt: 90 %, 4 bits"].verdict == "reached"
    assert found["the same, beyondfedapt: 90 %, 4 bits"].saved == "90.0 %"
    assert found["the same, beyondfedapt: a fifth"].verdict == "reached"
    assert found["the same, beyondfedapt: 95 %"].verdict == "reached under horowitz and bitops only"


def test_what_is_not_reached_says_why():
    found = of(row("fp32", 0.80), row("budget 4", 0.792, bits=5.0), row("budget 3", 0.70, bits=3.0))
    assert found["the same, beyondfedapt: 90 %, 4 bits"].verdict == "saves less, loses more"
    assert found["the same, furtherfedapt: 92.5 %, 3 bits"].verdict == "loses more; saves as much"
    assert found["the same, beyondfedapt: 87 %"].verdict == "saves less"


def test_a_point_is_dominated_by_one_with_no_more_bits_and_no_less_accuracy():
    rows = [row("fp32", 0.80), row("apt 1", 0.70, bits=3.0), row("apt 6", 0.78, bits=9.0), row("budget 4", 0.79)]
    (said,) = dominated(curves(pandas.DataFrame(rows)))
    assert "budget dominates 1 of APT's 2 points" in said and "APT's accuracy rises with its bits" in said


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent")
def test_a_cell_is_charged_by_the_papers_accounts():
    task = dataclasses.replace(TASKS["fashion_mnist"], single_samples=320, epochs=1)
    qat = measure(Cell("fashion_mnist", "single", "qat 8", 0), task, ARMS["qat 8"])
    four = measure(Cell("fashion_mnist", "single", "stochastic 4", 0), task, ARMS["stochastic 4"])
    assert qat["parameter_bits"] == 40 and qat["moved_to_qat"] == 1.0
    # Horowitz: 0.2 * (4 / 8) ** 1.98 + 0.1 pJ of 4.6 pJ.
    assert four["gemm_by_weights"]["horowitz"] == pytest.approx((0.2 * 0.5**1.977 + 0.1) / 4.6, rel=1e-3)
    # 4k bits a weight of 88, and the biases and scales that do not shrink.
    assert 16 / 88 < four["moved_to_qat"] < 0.21
