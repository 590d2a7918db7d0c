import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapt.cost.energy import TABLES, Energy, layer_energy, radio_energy, training_energy
from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape, layer_shapes
from fedapt.cost.trace import FLOATS, trace_layer, trace_step
from fedapt.quant import OperandWidths

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


@pytest.mark.parametrize("table", TABLES)
def test_a_narrow_weight_that_meets_a_float_operand_saves_nothing(table):
    assert TABLES[table](4, 32) == TABLES[table](32, 4) == 1.0


DENSE = LayerShape("dense", "linear", 1000, 10, 0, 1000, 100, 10, True)


def gemm_saved(bits, account, operands=FLOATS):
    """Return which share of the fp32 GEMM energy is saved under the Horowitz table."""
    spent, _ = layer_energy(trace_layer(DENSE, bits, operands=operands), TABLES["horowitz"], account)
    return 1 - spent / 3000


def test_gemm_energy_is_saved_by_both_accounts_as_claimed():
    """4 bits: (0.2 * 0.5^1.977 + 0.1) / 4.6 = 0.0328. 6 bits: (0.2 * 0.75^1.977 + 0.1) / 4.6 = 0.0464.

    By both operands: nothing with floats, and at least 95 % where activations and errors have 6 bits.
    """
    assert gemm_saved(13, "weights") == pytest.approx(0.86, abs=0.01)
    assert gemm_saved(4, "weights") == pytest.approx(1 - 0.0328, abs=1e-4)
    assert gemm_saved(4, "operands") == 0.0
    assert gemm_saved(4, "operands", OperandWidths(activations=6, errors=6)) == pytest.approx(1 - 0.0464, abs=1e-4)
    assert gemm_saved(4, "operands", OperandWidths(activations=6, errors=6)) >= 0.95


@pytest.mark.parametrize("table", TABLES)
def test_by_operands_each_product_costs_what_its_two_numbers_do(table):
    """At 4 bits with activations of 6 and float errors only the forward pass is cheap; an update multiplies a float gradient."""
    layer = trace_layer(DENSE, 4, operands=OperandWidths(activations=6))
    assert layer_energy(layer, TABLES[table], "operands") == pytest.approx((1000 * TABLES[table](4, 6) + 2000, 1000))


@pytest.mark.parametrize("account", ["weights", "operands"])
def test_the_update_of_a_master_is_float(account):
    assert layer_energy(trace_layer(DENSE, 8, master=True), TABLES["linear"], account)[1] == 1000


@settings(deadline=None)
@given(bits=st.integers(2, 15), table=st.sampled_from(sorted(TABLES)))
def test_a_wider_mac_never_costs_less(bits, table):
    assert TABLES[table](bits, bits) < TABLES[table](bits + 1, bits + 1) < 1.0


@pytest.mark.parametrize(("table", "eight", "four"), [("linear", 1 / 4, 1 / 8), ("bitops", 1 / 16, 1 / 64)])
def test_training_energy_equals_a_hand_count(small, device, table, eight, four):
    """`small` with 8 bits in the convolution and 4 in the dense layer, 5 samples in batches of 3 and 2, at 1 nJ a MAC.

    A sample: 1728 MACs at 8 bits, 720 at 4. A step updates 54 weights at 8 bits, 240 at 4, and 8 biases at 32.
    A step moves 4 * (54 * 8 + 240 * 4) bits of weights, 8 * 160 of scales and zeros, 4 * 8 * 32 of biases: 7872 bits, 984 bytes.
    Activations: 2 * (5 * (212 + 136) + 2 * 4) = 3496 bytes. A step needs more than the KiB on the chip, so a byte costs 100 pJ.
    """
    trace = trace_step(layer_shapes(small, (2, 4, 4)), {"0": 8, "3": 4}, SAVED)
    energy = training_energy(trace, [3, 2], device, table)
    macs = 5 * (1728 * eight + 720 * four) + 2 * (54 * eight + 240 * four + 8)
    assert energy.compute_j == pytest.approx(macs * 1e-9)
    assert energy.movement_j == pytest.approx((2 * 984 + 3496) * 1e-10)


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
