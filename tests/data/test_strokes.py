"""fedapt.data.strokes: digits drawn by writers."""

import time

import numpy as np
import pytest
import torch

from fedapt.data import DataSpec, load
from fedapt.data.strokes import CHUNK, draw, hands, labels, source

NOBODY = np.full(40, -1, dtype=np.int32)


def test_every_class_is_drawn_equally_often_within_one():
    counts = np.bincount(labels(1003, 0, "train"), minlength=10)
    assert counts.sum() == 1003 and counts.max() - counts.min() <= 1


def test_labels_are_in_an_order_of_their_own_for_each_seed_and_split():
    drawn = [labels(100, seed, split).tolist() for seed, split in ((0, "train"), (0, "test"), (1, "train"))]
    assert drawn[0] != drawn[1] and drawn[0] != drawn[2] and drawn[0] == labels(100, 0, "train").tolist()


def test_the_same_seed_draws_the_same_pixels_and_another_one_does_not():
    digits, by = labels(CHUNK + 9, 0, "train"), hands(CHUNK + 9, 0, "train")
    images = draw(digits, by, 0, "train")
    assert images.shape == (CHUNK + 9, 1, 28, 28) and images.dtype == np.uint8
    assert np.array_equal(images, draw(digits, by, 0, "train"))
    assert not np.array_equal(images, draw(digits, by, 1, "train"))


def test_more_writers_leave_the_first_ones_as_they_are():
    few, many = hands(3, 0, "train"), hands(30, 0, "train").of(np.arange(3))
    assert all(np.array_equal(getattr(few, name), getattr(many, name)) for name in vars(few))


def test_a_row_changes_with_its_owner_and_with_nothing_else():
    owner = np.arange(40, dtype=np.int32) % 4
    moved, orphaned = owner.copy(), owner.copy()
    moved[5], orphaned[5] = 2, -1
    strokes = source(DataSpec(samples=40, test_samples=10), 4, 0)
    images = strokes.inputs(owner)[0]
    for other in (moved, orphaned):
        changed = (strokes.inputs(other)[0] != images).any(axis=(1, 2, 3))
        assert np.flatnonzero(changed).tolist() == [5]


def test_the_test_set_does_not_depend_on_who_owns_the_training_rows():
    strokes = source(DataSpec(samples=40, test_samples=25), 4, 0)
    assert np.array_equal(strokes.inputs(NOBODY)[1], strokes.inputs(np.arange(40, dtype=np.int32) % 4)[1])
    assert len(strokes.inputs(NOBODY)[1]) == len(strokes.test_labels) == 25


def brightness_correlation(owner, clients):
    """Return the correlation of the mean brightness of row 2 i and row 2 i + 1."""
    pairs = source(DataSpec(samples=len(owner), test_samples=10), clients, 0).inputs(owner)[0].mean(axis=(1, 2, 3)).reshape(-1, 2)
    return np.corrcoef(pairs.T)[0, 1]


def test_a_writer_is_recognised_by_the_pen_and_rows_of_nobody_have_no_common_writer():
    # For 1000 independent pairs the correlation has a standard deviation of 1 / sqrt(1000) = 0.032: the bound is 5 sigma.
    assert brightness_correlation(np.repeat(np.arange(1000, dtype=np.int32), 2), 1000) > 0.4
    assert abs(brightness_correlation(np.full(2000, -1, dtype=np.int32), 1000)) < 0.16


def test_ink_is_bright_in_the_middle_and_the_border_is_dark():
    mean = source(DataSpec(samples=500, test_samples=10), 1, 0).inputs(np.full(500, -1, dtype=np.int32))[0].mean(axis=(0, 1))
    assert mean[8:20, 8:20].mean() > 2 * mean[[0, -1]].mean() and mean[[0, -1]].mean() < 40


@pytest.mark.slow
def test_seventy_thousand_images_take_a_few_seconds():
    strokes, start = source(DataSpec(samples=60_000, test_samples=10_000), 200, 0), time.perf_counter()
    strokes.inputs(np.arange(60_000, dtype=np.int32) % 200)
    assert time.perf_counter() - start < 6


def accuracy_after(model, federation, epochs, lr, batch):
    """Train on all training samples, as one machine would, and return the accuracy on the test set."""
    optimiser = torch.optim.Adam(model.parameters(), lr)
    shuffle = np.random.default_rng(0)
    steps = epochs * len(federation.train.labels) // batch
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, steps)
    for _ in range(epochs):
        order = shuffle.permutation(len(federation.train.labels))
        for rows in np.array_split(order, len(order) // batch):
            inputs, targets = federation.train.batch(rows)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        parts = [federation.test.batch(rows) for rows in np.array_split(np.arange(len(federation.test.labels)), 20)]
        return np.mean([(model(inputs).argmax(1) == targets).float().mean().item() for inputs, targets in parts])


@pytest.fixture(scope="module")
def federation():
    return load(DataSpec(partition="iid"), 200, 0)


@pytest.mark.slow
def test_a_linear_model_reaches_about_eighty_percent(federation):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    assert 0.78 < accuracy_after(model, federation, epochs=8, lr=2e-3, batch=256) < 0.82


@pytest.mark.slow
def test_a_small_cnn_exceeds_ninety_five_percent_within_two_epochs(federation):
    torch.manual_seed(0)
    convolutions = [
        layer
        for before, after in ((1, 16), (16, 32))
        for layer in (torch.nn.Conv2d(before, after, 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    ]
    dense = [torch.nn.Flatten(), torch.nn.Linear(1568, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)]
    assert accuracy_after(torch.nn.Sequential(*convolutions, *dense), federation, epochs=2, lr=1e-3, batch=64) > 0.95
