import pytest
import torch

from fedapt.cost.families import FAMILIES, REFERENCE_SHAPE, reference_cnn, step_of
from fedapt.cost.measured import SEEN, UNSEEN
from fedapt.data import DataShape
from fedapt.models import build
from fedapt.models.cnn import Cnn


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_every_family_trains_at_every_depth_and_grows_with_width(name, depth):
    family = FAMILIES[name]
    macs = []
    for width in (4, 12):
        trace, step = step_of(lambda width=width: family.build(width, depth), family.shape, batch=2, bits=8)
        assert 0 < step() < 100
        macs.append(trace.macs(1, 0))
    assert macs[1] > 2 * macs[0]


def test_depthwise_convolutions_are_grouped_in_the_trace():
    """Width 4, depth 2, at 16x16: 4 channels of 9 taps, then 8 of 25, three passes each."""
    family = FAMILIES["separable"]
    trace, _ = step_of(lambda: family.build(4, 2), family.shape, batch=2, bits=8)
    grouped = [layer.sample_macs for layer in trace.layers if layer.shape.groups > 1]
    assert grouped == [3 * 256 * 4 * 9, 3 * 256 * 8 * 25]


def test_a_network_is_the_same_each_time_and_leaves_the_global_stream_alone():
    before = torch.random.get_rng_state()
    first, again = (step_of(reference_cnn, REFERENCE_SHAPE, 2, 8)[1]() for _ in range(2))
    assert first == again
    assert torch.equal(torch.random.get_rng_state(), before)


def test_at_most_thirty_points_are_fitted_and_the_others_share_no_width_and_no_batch():
    assert len(SEEN) * len(FAMILIES) <= 30
    for place in (0, 2):
        assert not {sizes[place] for sizes in SEEN} & {sizes[place] for sizes in UNSEEN}


def test_the_reference_is_the_default_cnn():
    named = build(Cnn(), DataShape((1, 28, 28), 10), 0)
    assert [tuple(p.shape) for p in named.parameters()] == [tuple(p.shape) for p in reference_cnn().parameters()]
