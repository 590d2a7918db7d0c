"""fedapt.grid.noise: the noise of an update by hand, and against rounding as it really happens."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedapt.admission import Admission
from fedapt.clients.instructions import Instructions, LayerReport, Segment, TrainReport
from fedapt.clients.link import Link
from fedapt.cost.planner import Plan
from fedapt.grid.noise import step_variance, training_variance, update_noise
from fedapt.grid.visit import Task
from fedapt.quant import CodedWeight, FloatWeight, Grid, GridOptions
from fedapt.quant.wire import QuantisedModel

TOLD = Instructions(seed=0, round=0, client=1, epochs=1, batch=4, lr=0.5, rounding="stochastic", grid=GridOptions())
TASK = Task("train", Plan({"fc": 4}, 4), TOLD, samples=12, held_out=0, admission=Admission())
# Two channels of three weights, steps of 0.1 and 0.2: the squares of all steps add up to 3 (.01 + .04).
SQUARES = 0.15


def coded(*scales, bits=4):
    grid = Grid(torch.tensor(scales), torch.full((len(scales),), 2.0 ** (bits - 1)), bits)
    return CodedWeight(torch.full((2, 3), 2 ** (bits - 1), dtype=torch.uint8), grid)


def report(gavg=1e9, steps=3, **fields):
    layers = {"fc": LayerReport(gavg=gavg, underflow_share=0.0, clip_share=0.0)}
    return TrainReport(samples=12, batches={4: steps}, train_loss=1.0, layers=layers, **fields)


def told(task=TASK, **changes):
    return replace(task, instructions=task.instructions.model_copy(update=changes))


@pytest.mark.parametrize(("rounding", "share"), [("stochastic", 1 / 6), ("nearest", 1 / 12), ("truncate", 1 / 3)])
def test_long_steps_have_a_uniform_remainder(rounding, share):
    found = training_variance(told(rounding=rounding), {"fc": coded(0.1, 0.2)}, report())
    assert found == pytest.approx(3 * SQUARES * share, rel=1e-6)


def test_one_scale_for_the_tensor_counts_for_all_weights():
    assert training_variance(TASK, {"fc": coded(0.1)}, report()) == pytest.approx(3 * 6 * 0.01 / 6, rel=1e-6)


def test_short_steps_bring_as_much_variance_as_length():
    # A mean step of half a learning rate times a Gavg of 0.002: a thousandth of a code.
    assert training_variance(TASK, {"fc": coded(0.1, 0.2)}, report(0.002)) == pytest.approx(3 * SQUARES * 0.001, rel=3e-3)
    assert training_variance(TASK, {"fc": coded(0.1, 0.2)}, report(0.0)) == 0.0


def test_what_does_not_train_in_codes_and_no_steps_have_no_noise():
    assert training_variance(TASK, {}, report()) == 0.0
    assert training_variance(TASK, {"fc": coded(0.1)}, report(steps=0)) == 0.0


def test_each_part_of_an_adapted_round_counts_at_its_own_step():
    """One step at 4 bits and two at 5, where a step is 7/15 as long."""
    parts = [Segment(bits=[4], batches={4: 1}), Segment(bits=[5], batches={4: 2})]
    found = training_variance(TASK, {"fc": coded(0.1, 0.2)}, report(segments=parts))
    assert found == pytest.approx(SQUARES / 6 * (1 + 2 * (7 / 15) ** 2), rel=1e-6)


@pytest.mark.parametrize("mean", [0.003, 0.05, 0.4, 1.5, 20.0])
def test_the_variance_is_that_of_real_updates_with_laplacian_gradients(mean):
    """600,000 weights of one layer take one step; what their codes missed of it is the noise."""
    count, generator = 600_000, torch.Generator().manual_seed(1)
    draw = np.random.default_rng(2).laplace(scale=mean * 0.01, size=(2, count // 2))
    weight = CodedWeight(
        torch.full((2, count // 2), 2**15, dtype=torch.uint16), Grid(torch.tensor([0.01]), torch.tensor([2.0**15]), 16)
    )
    statistics = weight.apply(torch.tensor(draw, dtype=torch.float32), 1.0, "stochastic", generator, True)
    noise = weight.dequantise().double().numpy() + draw
    assert statistics.step_sum / count == pytest.approx(mean, rel=0.03)
    # The standard deviation of the mean of a square is at most a few hundredths of it here.
    assert np.square(noise).mean() / 0.01**2 == pytest.approx(step_variance("stochastic", mean), rel=0.1)


def test_the_variance_of_a_step_never_falls_with_its_length_and_ends_at_a_sixth():
    found = [step_variance("stochastic", 10**place) for place in np.linspace(-8, 12, 400)]
    assert all(later >= earlier * (1 - 1e-6) for earlier, later in itertools.pairwise(found))
    assert found[0] == pytest.approx(1e-8) and found[-1] == 1 / 6 and all(map(math.isfinite, found))


def noise(link, sent, start, error=None, norm=2.0, arrays=None):
    arrays = {"fc.weight": np.zeros((2, 3), np.float32)} if arrays is None else arrays
    update = {"fc.weight": np.float32([[norm, 0, 0], [0, 0, 0]])}
    start, end = (QuantisedModel({"fc": weight}, {}) for weight in (start, sent))
    return update_noise(told(link=link), arrays, start.coded, end, report(steps=3, relative_error=error), update)


def test_without_compression_the_error_is_the_predicted_variance_of_the_update():
    variance, error = noise(Link(), coded(0.1, 0.2), coded(0.1, 0.2))
    assert (variance, error) == pytest.approx((3 * SQUARES / 6, 3 * SQUARES / 6 / 4), rel=1e-6)


def test_an_update_of_which_nothing_is_left_has_lost_all_of_itself():
    assert noise(Link(), coded(0.1), coded(0.1), norm=0.0)[1] == 1.0
    assert noise(Link(), FloatWeight(torch.ones(2, 3)), FloatWeight(torch.ones(2, 3)), norm=0.0) == (0.0, 0.0)


def test_a_client_that_compresses_its_delta_is_believed_about_its_error():
    """What came has a square of 6; a quarter of error in what was meant is a fifth of what came."""
    variance, error = noise(Link(bits=4), FloatWeight(torch.ones(2, 3)), FloatWeight(torch.ones(2, 3)), error=0.25)
    assert (variance, error) == pytest.approx((6 / 5, 0.25))


def test_a_model_upload_has_the_noise_of_the_download_too():
    start = coded(0.1, 0.2)
    arrays = {"fc.weight": start.dequantise().numpy() + np.float32(0.5)}
    variance, error = noise(Link(send="model"), start, start, arrays=arrays)
    expected = 3 * SQUARES / 6 + 6 * 0.25
    assert (variance, error) == pytest.approx((expected, expected / 4))
