import pytest

from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import layer_shapes
from fedapt.cost.time import Time, radio_time, training_time
from fedapt.cost.trace import trace_step


def test_training_time_equals_a_hand_count_whatever_the_width(small, device):
    """5 samples of 2448 MACs and 2 updates of 302 parameters at 1e6 MAC/s; 2 * 920 + 3496 bytes at 1e5 a second."""
    saved = SavedBytes(per_sample=212, fixed=4, input_per_sample=136)
    shapes = layer_shapes(small, (2, 4, 4))
    time = training_time(trace_step(shapes, {"0": 8, "3": 4}, saved), [3, 2], device)
    assert time.compute_s == pytest.approx((5 * 2448 + 2 * 302) / 1e6)
    assert time.movement_s == pytest.approx(5336 / 1e5)
    assert training_time(trace_step(shapes, {}, saved), [3, 2], device).compute_s == time.compute_s


def test_links_have_their_own_speed_each_way_and_parts_add_up(device):
    assert radio_time(device, downlink_bytes=4000, uplink_bytes=500) == 2.0 + 0.5
    assert Time(1.0, 2.0, 4.0).total_s == 7.0
