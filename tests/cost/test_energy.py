import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapt.cost.energy import TABLES, Energy, radio_energy, training_energy
from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import layer_shapes
from fedapt.cost.trace import trace_step

SAVED = SavedBytes(per_sample=212, fixed=4, input_per_sample=136)


@pytest.mark.parametrize("table", TABLES)
def test_an_fp32_mac_is_the_unit_of_every_table(table):
    assert TABLES[table](32, 32) == 1.0


def test_tables_equal_a_hand_calculation():
    """8 bits: linear 1/4, bitops 1/16, horowitz (0.2 + 0.1) / 4.6. 16 bits doubles the width: 0.2 * 2^1.977 = 0.787."""
    assert TABLES["linear"](8, 8) == 0.25
    assert TABLES["bitops"](8, 8) == 1 / 16
    assert TABLES["horowitz"](8, 8) == pytest.approx(0.3 / 4.6)
    assert TABLES["horowitz"](16, 16) == pytest.approx(0.887 / 4.6, rel=1e-3)


def test_thirteen_bits_save_the_gemm_energy_that_rct_claims():
    """RCT: more than 86 % of GEMM energy, which is about 13 bits under the Horowitz interpolation."""
    assert 1 - TABLES["horowitz"](13, 13) == pytest.approx(0.86, abs=0.01)


@pytest.mark.parametrize("table", ["linear", "horowitz"])
def test_a_narrow_weight_that_meets_a_float_operand_saves_nothing(table):
    assert TABLES[table](4, 32) == 1.0


@settings(deadline=None)
@given(bits=st.integers(2, 15), table=st.sampled_from(sorted(TABLES)))
def test_a_wider_mac_never_costs_less(bits, table):
    assert TABLES[table](bits, bits) < TABLES[table](bits + 1, bits + 1) < 1.0


@pytest.mark.parametrize(("table", "eight", "four"), [("linear", 1 / 4, 1 / 8), ("bitops", 1 / 16, 1 / 64)])
def test_training_energy_equals_a_hand_count(small, device, table, eight, four):
    """`small` with 8 bits in the convolution and 4 in the dense layer, 5 samples in batches of 3 and 2, at 1 nJ a MAC.

    A sample: 1728 MACs at 8 bits, 720 at 4. A step updates 54 weights at 8 bits, 240 at 4, and 8 biases at 32.
    A step moves 4 * (54 * 8 + 240 * 4) bits of weights, 3 * 8 * 32 of scales, 4 * 8 * 32 of biases: 7360 bits, 920 bytes.
    Activations: 2 * (5 * (212 + 136) + 2 * 4) = 3496 bytes. A step needs more than the KiB on the chip, so a byte costs 100 pJ.
    """
    trace = trace_step(layer_shapes(small, (2, 4, 4)), {"0": 8, "3": 4}, SAVED)
    energy = training_energy(trace, [3, 2], device, table)
    macs = 5 * (1728 * eight + 720 * four) + 2 * (54 * eight + 240 * four + 8)
    assert energy.compute_j == pytest.approx(macs * 1e-9)
    assert energy.movement_j == pytest.approx((2 * 920 + 3496) * 1e-10)


def test_movement_is_priced_on_chip_when_everything_resident_fits(small, device):
    trace = trace_step(layer_shapes(small, (2, 4, 4)), {"0": 8, "3": 4}, SAVED)
    on_chip, beyond = (training_energy(trace, [1], device, resident_bytes=size).movement_j for size in (1024, 1025))
    assert beyond == pytest.approx(100 * on_chip)


def test_nothing_trained_costs_nothing(small, device):
    trace = trace_step(layer_shapes(small, (2, 4, 4)), {}, SAVED)
    assert training_energy(trace, [], device) == Energy(0.0, 0.0)


def test_radio_is_charged_both_ways_and_counted_in_the_total(device):
    assert radio_energy(device, 300, 200) == pytest.approx(500e-8)
    assert Energy(1.0, 2.0, 4.0).total_j == 7.0
