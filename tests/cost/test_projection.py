import itertools

import numpy as np
import pytest

from fedapt.cost.peaks import Moments, Peaks
from fedapt.cost.projection import readable_bytes
from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape
from fedapt.cost.trace import WIDTHS
from fedapt.cost.workload import Workload

LAYERS = {"a": 80, "b": 4000, "c": 800, "d": 800}
SAVED = SavedBytes(per_sample=100, fixed=0, input_per_sample=10)


@pytest.fixture
def widths():
    """Four dense layers; dequantising c takes 100000 bytes, which nothing else needs."""
    shapes = tuple(LayerShape(name, "linear", weights, 4, 4, weights, 10, 4, True) for name, weights in LAYERS.items())
    scratch = np.array([[0.0], [0.0], [100_000.0], [0.0]])
    moments = Moments(np.array([100.0]), np.zeros(1), np.zeros(1), np.zeros(1), scratch)
    return Workload(shapes, SAVED, Peaks(tuple(LAYERS), {1: moments})).widths


def way(widths, wish, lowest=2, sensitivity=None):
    start = widths.chosen(wish)
    minded = np.array([(sensitivity or LAYERS)[name] for name in LAYERS], float)
    return widths.way_by_bytes(start, np.minimum(start, WIDTHS.index(lowest)), minded)


def bits_along(way):
    return [[WIDTHS[place] for place in way.at(point)] for point in range(len(way.layers) + 1)]


def test_of_equal_losses_the_largest_layer_gives_first_and_the_later_of_equals_next(widths):
    """Where harm is noise times weights, a bit of each layer costs the same for each byte."""
    assert bits_along(way(widths, dict.fromkeys(LAYERS, 8)))[:5] == [
        [8, 8, 8, 8],
        [8, 7, 8, 8],
        [8, 7, 8, 7],
        [8, 7, 7, 7],
        [7, 7, 7, 7],
    ]


def test_a_sensitive_layer_keeps_its_bits_longer(widths):
    """a minds 4**3 times as much for each weight, so it gives its first bit when the others give their fourth."""
    points = bits_along(way(widths, dict.fromkeys(LAYERS, 8), sensitivity=LAYERS | {"a": 80 * 64}))
    first = next(point for point in points if point[0] == 7)
    assert first == [7, 4, 4, 4]


def test_every_step_is_the_cheapest_that_is_open(widths):
    """Brute force: at each point, of all layers' next bits the one with the least harm for each byte."""
    sensitivity = {"a": 9000.0, "b": 700.0, "c": 30.0, "d": 44.0}
    points = bits_along(way(widths, {"a": 5, "b": 9, "c": 16, "d": 7}, lowest=3, sensitivity=sensitivity))
    for before, after in itertools.pairwise(points):
        loss = {
            name: sensitivity[name] * 3 * 4.0 ** -before[place] / LAYERS[name]
            for place, name in enumerate(LAYERS)
            if before[place] > 3
        }
        cheapest = min(loss, key=loss.get)
        assert [old - new for old, new in zip(before, after, strict=True)] == [int(name == cheapest) for name in LAYERS]
    assert points[-1] == [3, 3, 3, 3]


def test_a_float_layer_drops_to_sixteen_first_and_may_need_more_than_before(widths):
    """c saves 1600 bytes of codes, takes 32 of scales and zeros, and 100000 to be dequantised in."""
    down = way(widths, {"a": 8, "b": 8, "c": 32, "d": 8})
    assert bits_along(down)[1] == [8, 8, 16, 8]
    assert down.resident(1)[1] - down.resident(1)[0] == -1600 + 32 + 100_000


def test_resident_bytes_are_codes_scales_floats_batch_and_work(widths):
    """8 bits: 5680 of codes, 16 scales with zeros, 16 biases; 110 a sample; 100000 for c."""
    assert way(widths, dict.fromkeys(LAYERS, 8)).resident(3)[0] == 5680 + 128 + 64 + 330 + 100_000


@pytest.mark.parametrize(("count", "text"), [(5, "5 B"), (1536, "1.5 KiB"), (2**20, "1 MiB"), (3.2 * 2**30, "3.2 GiB")])
def test_bytes_are_written_in_the_unit_that_they_fill(count, text):
    assert readable_bytes(count) == text
