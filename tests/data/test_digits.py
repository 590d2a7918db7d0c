"""fedapt.data.digits: scikit-learn's digits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from fedapt.data import DataSpec, load
from fedapt.data.digits import digits


def test_grey_levels_are_spread_over_a_byte_and_every_digit_is_used_once():
    source = digits(DataSpec(source="digits"), 0)
    train, test = source.inputs(np.zeros(len(source.labels), np.int32))
    assert (train.shape, test.shape) == ((1438, 1, 8, 8), (359, 1, 8, 8)) and train.dtype == np.uint8
    ours = np.sort(np.concatenate([train, test]).reshape(-1, 64).astype(int).sum(1))
    # Level k of 0..16 becomes round(k * 15.9375): 0, 16, 32, ... 255.
    levels = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
    assert np.array_equal(ours, np.sort(levels[load_digits().data.astype(int)].sum(1)))


def test_images_keep_their_labels():
    source = digits(DataSpec(source="digits"), 3)
    train, _ = source.inputs(np.zeros(len(source.labels), np.int32))
    known = {
        bytes(np.round(image * 255 / 16).astype(np.uint8)): label
        for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    assert [known[bytes(image)] for image in train] == source.labels.tolist()


@pytest.mark.parametrize(
    ("options", "sizes"), [({"samples": 100}, (100, 359)), ({"test_samples": 7, "test_share": 0.5}, (899, 7))]
)
def test_fewer_samples_can_be_asked_for(options, sizes):
    federation = load(DataSpec(source="digits", **options), 3, 0)
    assert (len(federation.train.labels), len(federation.test.labels)) == sizes
