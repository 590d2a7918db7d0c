import pytest

from fedapt.cost.energy import TABLES
from fedapt.cost.model import CostModel
from fedapt.cost.saved import saved_bytes
from fedapt.cost.shapes import layer_shapes

BITS = {"0": 8, "3": 4}


@pytest.fixture
def model(small, device):
    return CostModel(layer_shapes(small, (2, 4, 4)), saved_bytes(small, (2, 4, 4)), device)


def test_a_round_costs_what_a_hand_count_says(model):
    """See the hand counts of energy, time and memory: 3 and 2 samples of `small` at 8 and 4 bits; 300 bytes down, 200 up.

    Memory at 3 samples: codes 54 + 120, 8 scales, 8 biases, saved 3 * 212 + 4, transient 1920, batch 3 * 136.
    """
    cost = model.training_cost(BITS, [3, 2], downlink_bytes=300, uplink_bytes=200)
    assert cost.macs == 5 * 2448 + 2 * 302
    assert cost.memory.total_bytes == 174 + 32 + 32 + 640 + 1920 + 408
    assert cost.energies["linear"].compute_j == pytest.approx((5 * (1728 / 4 + 720 / 8) + 2 * (54 / 4 + 240 / 8 + 8)) * 1e-9)
    assert cost.energies["linear"].movement_j == pytest.approx(5336e-10)
    assert cost.energies["linear"].radio_j == pytest.approx(500e-8)
    assert cost.time.total_s == pytest.approx(0.012844 + 0.05336 + 0.15 + 0.2)


def test_the_energy_of_the_cost_is_that_of_the_models_own_table(small, device):
    for table in TABLES:
        model = CostModel(layer_shapes(small, (2, 4, 4)), saved_bytes(small, (2, 4, 4)), device, table)
        cost = model.training_cost(BITS, [2], 10, 10)
        assert cost.energy == cost.energies[table]


def test_containers_cost_memory_only(model):
    cost = model.training_cost({"0": 5, "3": 3}, [1], 0, 0)
    assert cost.memory_container.codes_bytes - cost.memory.codes_bytes == (54 + 120) - (34 + 90)
    assert cost.memory_container.total_bytes - cost.memory.total_bytes == 50


def test_a_client_that_trains_nothing_pays_for_its_radio(model):
    cost = model.training_cost(BITS, [], downlink_bytes=100, uplink_bytes=0)
    assert (cost.macs, cost.energy.compute_j, cost.energy.movement_j) == (0, 0, 0)
    assert cost.energy.total_j == pytest.approx(1e-6)


def test_optimiser_state_and_buffers_count_and_may_push_training_off_the_chip(small, device):
    roomy = device.model_copy(update={"on_chip_memory": device.on_chip_memory.model_copy(update={"value": 4096})})
    model = CostModel(layer_shapes(small, (2, 4, 4)), saved_bytes(small, (2, 4, 4)), roomy)
    without, with_buffer = (model.training_cost(BITS, [3], 0, 0, buffers_bytes=size) for size in (0, 2000))
    assert with_buffer.memory.total_bytes - without.memory.total_bytes == 2000
    assert with_buffer.energy.movement_j == pytest.approx(100 * without.energy.movement_j)


def test_fits_draws_the_line_at_the_last_byte(model):
    assert model.fits(BITS, 3, 3206)
    assert not model.fits(BITS, 3, 3205)
    assert not model.fits(BITS, 3, 3206, optimiser_bytes=1)


def test_a_message_carries_codes_scales_and_floats(model):
    """54 + 120 bytes of codes, 8 scales and 8 biases; in float 294 weights and 8 biases."""
    assert model.payload_bytes(BITS) == 174 + 64
    assert model.payload_bytes({}) == 4 * 302


def test_impossible_bits_are_refused(model):
    with pytest.raises(ValueError, match="cannot quantise: 7"):
        model.training_cost({"7": 4}, [1], 0, 0)
    with pytest.raises(ValueError, match="2 to 16 bits"):
        model.project({"0": 1}, [1], 10**6)
