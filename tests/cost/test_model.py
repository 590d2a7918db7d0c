import pytest
from torch import nn

from fedapt.cost.energy import TABLES
from fedapt.cost.model import CostModel
from fedapt.cost.planner import Demand
from fedapt.cost.workload import Workloads
from fedapt.quant.treatment import Scheme

BITS = {"0": 8, "3": 4}


def small():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


@pytest.fixture
def model(device):
    return CostModel(Workloads(small, (2, 4, 4)), device)


def test_a_round_costs_what_a_hand_count_says(model):
    """See the hand counts of energy, time and memory: 3 and 2 samples of `small` at 8 and 4 bits; 300 bytes down, 200 up.

    Memory at 3 samples: codes 54 + 120, 8 scales with zeros, 8 biases, saved 3 * 212 + 4, batch 3 * 136.
    """
    cost = model.training_cost(BITS, [3, 2], downlink_bytes=300, uplink_bytes=200)
    assert cost.macs == 5 * 2448 + 2 * 302
    memory = cost.memory
    assert memory.total_bytes - memory.transient_bytes == 174 + 64 + 32 + 640 + 408
    assert cost.energies["linear"].compute_j == pytest.approx((5 * (1728 / 4 + 720 / 8) + 2 * (54 / 4 + 240 / 8 + 8)) * 1e-9)
    assert cost.energies_operands["linear"].compute_j == pytest.approx((5 * 2448 + 2 * 302) * 1e-9)
    assert cost.energies["linear"].movement_j == pytest.approx((2 * 984 + 3496) * 1e-10)
    assert cost.energies["linear"].radio_j == pytest.approx(500e-8)
    assert cost.time.radio_s == pytest.approx(0.15 + 0.2)


def test_the_energy_of_the_cost_is_that_of_the_models_own_table(model, device):
    for table in TABLES:
        cost = CostModel(model.workloads, device, table).training_cost(BITS, [2], 10, 10)
        assert (cost.energy, cost.energy_operands) == (cost.energies[table], cost.energies_operands[table])


def test_containers_cost_memory_only(model):
    cost = model.training_cost({"0": 5, "3": 3}, [1], 0, 0)
    assert cost.memory_container.total_bytes - cost.memory.total_bytes == (54 + 240) - (34 + 90)


def test_a_client_that_trains_nothing_pays_for_its_radio(model):
    cost = model.training_cost(BITS, [], downlink_bytes=100, uplink_bytes=0)
    assert (cost.macs, cost.energy.compute_j, cost.energy.movement_j) == (0, 0, 0)
    assert cost.energy.total_j == pytest.approx(1e-6)


def test_buffers_count_and_may_push_training_off_the_chip(model, device):
    needed = model.training_cost(BITS, [3], 0, 0).memory.total_bytes
    roomy = device.model_copy(update={"on_chip_memory": device.on_chip_memory.model_copy(update={"value": needed})})
    model = CostModel(model.workloads, roomy)
    without, with_buffer = (model.training_cost(BITS, [3], 0, 0, buffers_bytes=size) for size in (0, 2000))
    assert with_buffer.memory.total_bytes - without.memory.total_bytes == 2000
    assert with_buffer.energy.movement_j == pytest.approx(100 * without.energy.movement_j)


def test_a_message_carries_codes_scales_and_floats(model, device):
    """54 + 120 bytes of codes, 8 scales with zeros and 8 biases; in float, and of a master, 294 weights and 8 biases."""
    assert model.payload_bytes(BITS) == 174 + 96
    assert model.payload_bytes({}) == 4 * 302
    assert CostModel(Workloads(small, (2, 4, 4), master=True), device).payload_bytes(BITS) == 4 * 302


def test_a_frozen_layer_saves_memory_and_arithmetic(model):
    """What the convolution does not do: 864 MACs a sample of weight gradients, and its update of 57 parameters."""
    whole, frozen = (model.training_cost(BITS, [3], 0, 0, scheme=Scheme(names)) for names in ((), ("0",)))
    assert whole.macs - frozen.macs == 3 * 864 + 57 + 3 * 240
    assert frozen.memory.total_bytes < whole.memory.total_bytes


def test_impossible_bits_are_refused(model):
    with pytest.raises(ValueError, match="cannot quantise: 7"):
        model.training_cost({"7": 4}, [1], 0, 0)
    with pytest.raises(ValueError, match="2 to 16 bits"):
        model.plan(Demand({"0": 1}, samples=1, epochs=1, batch=1, memory_budget=10**6))
