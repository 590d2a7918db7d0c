import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from fedapt.cost.peaks import NO_PEAKS, Moments, Peaks, measure_peaks
from fedapt.quant import QuantisedLayer, SingleCopySGD, quantise

CODED, FLOAT = np.array([True]), np.array([False])


def line(per_sample, fixed, scratch=0.0, block=0.0, full=0.0):
    return Moments(*(np.array([value]) for value in (per_sample, fixed, block, full)), np.array([[scratch]]))


def test_the_peak_is_the_highest_moment_of_the_stage_that_the_batch_is_in():
    moments = Moments(np.array([10.0, 1.0]), np.array([0.0, 50.0]), np.zeros(2), np.zeros(2), np.array([[0.0, 30.0]]))
    peaks = Peaks(("dense",), {1: line(7.0, 0.0), 2: moments, 16: line(20.0, 5.0)})
    assert [float(peaks.working_bytes(batch, FLOAT)) for batch in (0, 1, 2, 15, 16)] == [0, 7, 52, 150, 325]
    assert [float(peaks.working_bytes(batch, CODED)) for batch in (2, 15)] == [82, 150]


def test_a_block_of_errors_grows_until_it_is_full():
    peaks = Peaks(("dense",), {1: line(0.0, 0.0, block=100.0, full=250.0)})
    assert [float(peaks.working_bytes(batch, FLOAT)) for batch in (1, 2, 3, 9)] == [100, 200, 250, 250]


def test_a_batch_below_the_first_stage_is_taken_from_its_line():
    """Batch norm refuses a single sample, so there is no stage for it."""
    assert float(Peaks(("dense",), {2: line(7.0, 3.0)}).working_bytes(1, FLOAT)) == 10


def test_what_was_never_measured_holds_nothing():
    assert float(NO_PEAKS.working_bytes(4, np.zeros(0, np.bool_))) == 0


@pytest.fixture
def trained():
    model = nn.Sequential(nn.Linear(200, 50, bias=False))
    quantised = quantise(model, 8)
    with SingleCopySGD(model, quantised, 0.1, "stochastic", torch.Generator()) as sgd:

        def step(batch):
            with sgd.step():
                model(torch.ones(batch, 200)).sum().backward()

        yield quantised.layers, lambda sizes: nullcontext(step)


def test_a_step_of_one_layer_is_as_by_hand(trained):
    """Alive in the forward pass: the batch of 200 n floats made in the step, the weight of 10000 and the output of 50 n.

    In the backward pass: the batch, one float of the loss's gradient, of which the errors are a view, and the gradient of
    10000. Only the weight is the layer's own to dequantise.
    """
    peaks = measure_peaks(*trained)
    assert float(peaks.working_bytes(5, CODED)) >= 4 * (5 * 200 + 10000 + 5 * 50)
    stage = peaks.stages[2]
    assert stage.scratch.max() >= 4 * 10000
    assert float(peaks.working_bytes(5, FLOAT)) == pytest.approx(4 * (5 * 200 + 10000), rel=0.03)


def test_measuring_leaves_the_layers_as_they_were(trained):
    layers, steps = trained
    dict(measure_peaks(layers, steps).stages)
    (layer,) = layers.values()
    assert not {"dequantise", "apply"} & set(vars(layer.weight))
    assert type(layer).hear is QuantisedLayer.hear
    assert "hear" not in vars(layer)


def test_measuring_does_not_load_torchs_compiler() -> None:
    code = (
        "import sys; from fedapt.cost.workload import Workloads; from torch import nn;"
        "Workloads(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (3,)).at();"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
