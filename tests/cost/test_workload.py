import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedapt.cost.workload import Workloads
from fedapt.errors import ScenarioError
from fedapt.quant import GridOptions, OperandWidths
from fedapt.quant.treatment import WHOLE, Scheme


def cnn():
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def normed():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64, 3)),
    )


def test_a_step_is_measured_once_in_less_than_a_second():
    Workloads(normed, (1, 8, 8)).at()
    workloads = Workloads(cnn, (1, 28, 28))
    began = time.process_time()
    first = workloads.at()
    assert time.process_time() - began < 1.0
    assert workloads.at(WHOLE) is first


def test_measuring_twice_gives_the_same_and_draws_nothing_from_the_global_stream():
    state = torch.random.get_rng_state()
    one, other = (Workloads(cnn, (1, 28, 28)).at() for _ in range(2))
    assert (one.shapes, one.saved) == (other.shapes, other.saved)
    for batch, moments in one.peaks.stages.items():
        assert all((a == b).all() for a, b in zip(vars(moments).values(), vars(other.peaks.stages[batch]).values(), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_is_saved_is_what_the_float_model_saves():
    """See the hand count in test_saved."""
    assert Workloads(cnn, (1, 28, 28)).at().saved.per_sample == 79144


def test_a_step_holds_at_least_the_weight_gradient_and_what_is_saved():
    """All in float: the first dense layer's gradient has 32768 numbers, and comes when most is saved still."""
    workload = Workloads(cnn, (1, 28, 28)).at()
    none = torch.zeros(4, dtype=torch.bool).numpy()
    assert workload.peaks.working_bytes(7, none) >= 4 * 32768 + 7 * 70000


def test_prefixes_are_in_order_of_execution_and_take_norms_with_their_layer():
    assert Workloads(normed, (1, 8, 8)).prefixes() == ((), ("0", "1"), ("0", "1", "3", "4"))


def test_a_longer_frozen_prefix_saves_less_and_trains_less():
    workloads = Workloads(normed, (1, 8, 8))
    per_sample = [workloads.at(Scheme(prefix)).saved.per_sample for prefix in workloads.prefixes()]
    assert per_sample == sorted(per_sample, reverse=True)
    # Only the dense layer trains: its 64 inputs, and the 3 log-probabilities of the loss.
    assert per_sample[-1] == 4 * (64 + 3)
    frozen = workloads.at(Scheme(("0", "1")))
    assert [shape.trainable for shape in frozen.shapes] == [False, False, True, True, True]
    assert [shape.trainable_before for shape in frozen.shapes] == [False, False, False, True, True]


def test_activations_of_eight_bits_are_kept_as_bytes():
    """A dense layer of 64 inputs keeps 64 bytes, and the loss 3 floats."""

    def dense():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    saved = Workloads(dense, (64,), operands=OperandWidths(activations=8)).at().saved
    assert saved.per_sample == 64 + 12


def test_a_grid_for_the_whole_tensor_has_one_scale():
    shapes = Workloads(cnn, (1, 28, 28), grid=GridOptions(granularity="tensor")).at().shapes
    assert [shape.scales for shape in shapes] == [1, 1, 1, 1]


def test_a_master_costs_no_scratch_of_its_own_but_a_copy_to_compute_with():
    """Its update is in place, then the copy is fitted anew: the float weight that is dequantised is the most."""
    workload = Workloads(cnn, (1, 28, 28), master=True).at()
    dense = workload.peaks.layers.index("7")
    assert workload.peaks.stages[2].scratch[dense].max() >= 4 * 32768


def test_tokens_are_measured_with_one_that_exists():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.dense = nn.Embedding(11, 3), nn.Linear(3, 2)

        def forward(self, tokens):
            return self.dense(self.embedding(tokens).mean(1))

    workload = Workloads(Text, (6,), torch.int64).at()
    assert [(shape.kind, shape.weights) for shape in workload.shapes] == [("embedding", 33), ("linear", 6)]


def test_errors_of_tokens_are_measured_with_one_that_is_no_padding():
    """The quantised errors of 64 texts of 6 tokens of 16 numbers are alive beside the errors themselves."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.dense = nn.Embedding(11, 16), nn.Linear(16, 2)

        def forward(self, tokens):
            return self.dense((self.embedding(tokens) * (tokens != 0).unsqueeze(2)).sum(1))

    coded = torch.ones(2, dtype=torch.bool).numpy()
    floats, quantised = (
        Workloads(Masked, (6,), torch.int64, operands=OperandWidths(errors=bits)).at().peaks.working_bytes(64, coded)
        for bits in (32, 8)
    )
    assert quantised - floats >= 4 * 64 * 6 * 16


def test_the_pull_of_fedprox_holds_a_float_weight_beside_the_gradient():
    """An embedding of 4096 x 64, a mebibyte in float: its update needs a block at a time, the pull the whole of it."""

    def text():
        return nn.Sequential(nn.Embedding(4096, 64), nn.Flatten(), nn.Linear(6 * 64, 2))

    workloads, coded = Workloads(text, (6,), torch.int64), torch.ones(2, dtype=torch.bool).numpy()
    plain, pulled = (one.at().peaks.working_bytes(1, coded) for one in (workloads, workloads.pulled))
    assert plain < 2 * 2**20 <= pulled
    assert workloads.pulled is workloads.pulled


def test_a_model_that_does_other_things_for_other_batches_cannot_be_predicted():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.dense = nn.Linear(3, 2)

        def forward(self, x):
            return F.relu(self.dense(x)) if len(x) == 3 else self.dense(x)

    with pytest.raises(ScenarioError, match="a step on 3 samples does other things than one on 2"):
        dict(Workloads(Moody, (3,)).at().peaks.stages)
