"""What a sample filter spares, against hand counts: `small` has 864 and 240 MACs forward, and no error for its first layer."""

from dataclasses import replace

import pytest
from torch import nn

from fedapt.cost.calibration import counts
from fedapt.cost.energy import training_energy
from fedapt.cost.model import CostModel
from fedapt.cost.planner import Demand
from fedapt.cost.saved import saved_bytes
from fedapt.cost.shapes import layer_shapes
from fedapt.cost.time import training_time
from fedapt.cost.trace import NOTHING, Spared, trace_step
from fedapt.cost.workload import Workloads

BITS = {"0": 8, "3": 4}
# Of six samples in two batches one batch moves nothing, and four samples do not go backward.
SPARED = Spared(unseen=3, samples=4, steps=1, macs=1000)
FORWARD, BACKWARD, UPDATE = 864 + 240, 864 + 2 * 240, 57 + 245


@pytest.fixture
def trace(small):
    return trace_step(layer_shapes(small, (2, 4, 4)), BITS, saved_bytes(small, (2, 4, 4)))


def test_macs_are_forward_of_all_and_backward_of_some(trace):
    assert trace.macs(6, 2, SPARED) == 6 * FORWARD + 2 * BACKWARD + UPDATE + 1000
    assert trace.macs(6, 2, NOTHING) == trace.macs(6, 2) == 6 * (FORWARD + BACKWARD) + 2 * UPDATE


def test_what_is_kept_of_samples_that_do_not_go_backward_is_written_and_not_read(trace):
    kept, fixed = trace.saved_bytes_per_sample + trace.input_bytes_per_sample, trace.saved_bytes_fixed
    assert trace.moved_activation_bytes(6, 2, SPARED) == (6 + 2) * kept + (2 + 1) * fixed


def test_of_a_batch_that_moves_nothing_parameters_are_read_once(trace):
    """54 codes of 8 bits, 240 of 4, 8 scales with zeros of 64 and 8 floats of 32 bits; see `moved_bits` for a whole step."""
    held = 54 * 8 + 240 * 4 + 8 * 64 + 8 * 32
    parameters = trace.moved_bytes(6, 2, SPARED) - trace.moved_activation_bytes(6, 2, SPARED)
    assert parameters == (trace.moved_bytes(6, 1) - trace.moved_activation_bytes(6, 1)) + held / 8


def test_the_energy_of_arithmetic_is_a_hand_count_and_the_filters_own_is_of_floats(trace, device):
    energy = training_energy(trace, [4, 2], device, "linear", spared=SPARED)
    sample = 6 * (864 / 4 + 240 / 8) + 2 * (864 / 4 + 480 / 8)
    assert energy.compute_j == pytest.approx((sample + 54 / 4 + 240 / 8 + 8 + 1000) * 1e-9)
    operands = training_energy(trace, [4, 2], device, "linear", account="operands", spared=SPARED)
    assert operands.compute_j == pytest.approx((6 * FORWARD + 2 * BACKWARD + UPDATE + 1000) * 1e-9)


def test_where_nothing_is_spared_every_figure_is_the_same_to_the_last_bit(trace, device, calibrated):
    for table in ("linear", "horowitz", "bitops"):
        assert training_energy(trace, [3, 2], device, table, spared=Spared()) == training_energy(trace, [3, 2], device, table)
    for board in (device, calibrated):
        assert training_time(trace, [3, 2], board, Spared()) == training_time(trace, [3, 2], board)


def test_the_time_is_of_what_is_computed(trace, device):
    assert training_time(trace, [4, 2], device, SPARED).compute_s == trace.macs(6, 2, SPARED) / 1e6
    work = counts(trace, 6, 2, SPARED)
    assert work["dense_mac_s"] == 6 * FORWARD + 2 * BACKWARD + 1000
    assert (work["step_s"], work["coded_weight_s"]) == (2, 54 + 240)


def norm():
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


@pytest.mark.parametrize(("model", "mixes"), [(norm, True), (lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 5)), False)])
def test_a_batch_norm_sends_every_sample_backward(device, model, mixes):
    cost = CostModel(Workloads(model, (2, 4, 4)), device).training_cost({}, [10, 6], 0, 0, spared=Spared(1, 9))
    assert (cost.backward_samples, cost.spared_samples) == ((16, 1) if mixes else (7, 10))


@pytest.mark.parametrize("samples", [10, 16, 37])
def test_a_plan_knows_what_a_filter_spares(device, samples):
    """Half of each batch does not go backward: what is planned is what the round costs by the other road."""
    model = CostModel(Workloads(lambda: nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 5)), (20,)), device)

    def screen(batches):
        return batches, Spared(samples=sum(size // 2 * count for size, count in batches.items()), macs=7)

    asked = Demand({"0": 8, "2": 8}, samples, 2, 8, 10**9, screen=screen)
    sizes = [min(8, samples - first) for _ in range(2) for first in range(0, samples, 8)]
    message = model.payload_bytes(asked.wish)
    spared = Spared(samples=sum(size // 2 for size in sizes), macs=7)
    spent = model.training_cost(asked.wish, sizes, message, message, spared=spared)
    assert model.wished_j(asked) == pytest.approx(spent.energy.total_j, rel=1e-12)
    whole = model.wished_j(replace(asked, screen=None))
    assert whole > model.wished_j(asked)
