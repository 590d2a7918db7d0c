"""fedapt.data.examples: one shared buffer, normalised a batch at a time."""

import math
import pickle

import numpy as np
import pytest
import torch

from fedapt.data.examples import Examples, freeze, statistics


@pytest.fixture
def images():
    """Two images of two channels and two pixels: channel 0 holds 0, 51, 102, 255, channel 1 always 204."""
    inputs = np.array([[[[0, 51]], [[204, 204]]], [[[102, 255]], [[204, 204]]]], dtype=np.uint8)
    return Examples(freeze(inputs), freeze(np.array([3, 1])), *statistics(inputs))


def test_statistics_are_those_of_each_channel_after_division_by_255(images):
    # 0, 0.2, 0.4, 1 have mean 0.4 and squared deviations 0.16, 0.04, 0, 0.36, which are 0.14 on average.
    assert images.mean == pytest.approx([0.4, 0.8])
    assert images.std == pytest.approx([math.sqrt(0.14), 1.0])
    assert images.mean.dtype == images.std.dtype == np.float32


def test_a_batch_is_normalised_and_in_the_order_asked_for(images):
    inputs, labels = images.batch(np.array([1, 0, 1]))
    assert inputs.dtype == torch.float32 and inputs.shape == (3, 2, 1, 2)
    assert inputs[0, 0, 0].tolist() == pytest.approx([0.0, 0.6 / math.sqrt(0.14)], abs=1e-6)
    assert inputs[1, 0, 0].tolist() == pytest.approx([-0.4 / math.sqrt(0.14), -0.2 / math.sqrt(0.14)])
    assert torch.equal(inputs[0], inputs[2])
    assert labels.dtype == torch.int64 and labels.tolist() == [1, 3, 1]


def test_a_channel_that_never_changes_becomes_zero(images):
    assert images.batch(np.array([0]))[0][0, 1].tolist() == [[pytest.approx(0, abs=1e-7)] * 2]


def test_features_are_normalised_one_by_one_and_not_divided_by_255():
    inputs = np.array([[1.0, 10.0], [3.0, 30.0]], dtype=np.float32)
    examples = Examples(inputs, np.array([0, 1]), *statistics(inputs))
    assert examples.mean.tolist() == [2.0, 20.0] and examples.std.tolist() == [1.0, 10.0]
    assert examples.batch(np.array([0, 1]))[0].tolist() == [[-1.0, -1.0], [1.0, 1.0]]


def test_a_batch_is_a_copy_and_the_buffer_stays_as_it_is(images):
    before = images.inputs.copy()
    images.batch(np.array([0, 1]))[0].zero_()
    assert np.array_equal(images.inputs, before)
    with pytest.raises(ValueError, match="read-only"):
        images.inputs[0] = 0


def test_an_empty_batch_has_the_shape_of_a_sample(images):
    inputs, labels = images.batch(np.array([], dtype=np.int64))
    assert inputs.shape == (0, 2, 1, 2) and labels.shape == (0,)


def test_statistics_of_many_rows_come_from_ten_thousand_evenly_spaced_ones():
    ramp = np.arange(100_001, dtype=np.float32)[:, None]
    mean, std = statistics(ramp)
    # A ramp over 0..100000 has mean 50000 and deviation 100000 / sqrt(12), whatever even spacing samples it.
    assert mean[0] == pytest.approx(50_000, rel=1e-3) and std[0] == pytest.approx(100_000 / math.sqrt(12), rel=1e-3)


def test_examples_travel_between_processes_as_plain_arrays(images):
    images.batch(np.array([0]))
    copy = pickle.loads(pickle.dumps(images))  # noqa: S301
    assert set(vars(copy)) == {"inputs", "labels", "mean", "std", "vocabulary"}
    assert np.array_equal(copy.inputs, images.inputs)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_tokens_pass_through_as_they_are(kind):
    tokens = Examples(
        freeze(np.array([[1, 200], [0, 3]], kind)), np.array([1, 0]), *[np.zeros(0, np.float32)] * 2, vocabulary=201
    )
    inputs, labels = tokens.batch(np.array([1, 0]))
    assert inputs.dtype == tokens.dtype == torch.int64 and inputs.tolist() == [[0, 3], [1, 200]] and labels.tolist() == [0, 1]


def test_numbers_become_float32(images):
    assert images.dtype == images.batch(np.array([0]))[0].dtype == torch.float32
