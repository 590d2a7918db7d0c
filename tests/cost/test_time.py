import pytest

from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import layer_shapes
from fedapt.cost.time import Time, radio_time, training_time
from fedapt.cost.trace import trace_step


def test_training_time_equals_a_hand_count_whatever_the_width(small, device):
    """5 samples of 2448 MACs and 2 updates of 302 parameters at 1e6 MAC/s; 2 * 984 + 3496 bytes at 1e5 a second."""
    saved = SavedBytes(per_sample=212, fixed=4, input_per_sample=136)
    shapes = layer_shapes(small, (2, 4, 4))
    time = training_time(trace_step(shapes, {"0": 8, "3": 4}, saved), [3, 2], device)
    assert time.compute_s == pytest.approx((5 * 2448 + 2 * 302) / 1e6)
    assert time.movement_s == pytest.approx(5464 / 1e5)
    assert training_time(trace_step(shapes, {}, saved), [3, 2], device).compute_s == time.compute_s


def test_a_calibrated_machine_takes_what_its_own_steps_took(small, device, calibrated):
    """2 steps of 4 s, of 4 and 5 passes (an update each of weights and biases), and of 54 + 240 codes; 2448 MACs a sample."""
    saved = SavedBytes(per_sample=212, fixed=4, input_per_sample=136)
    trace = trace_step(layer_shapes(small, (2, 4, 4)), {"0": 8, "3": 4}, saved)
    time = training_time(trace, [3, 2], calibrated)
    assert time.movement_s == 3496 / 2**20
    passes_s = 2 * (4 / 2**3 + 5 / 2**5)
    assert time.total_s == pytest.approx(2 * 4 + passes_s + 5 * 2448 / 2**16 + 2 * 294 / 2**14 + 3496 / 2**20, rel=1e-12)
    assert training_time(trace, [], calibrated).total_s == 0
    assert training_time(trace, [3, 2], device).total_s != time.total_s


def test_links_have_their_own_speed_each_way_and_parts_add_up(device):
    assert radio_time(device, downlink_bytes=4000, uplink_bytes=500) == 2.0 + 0.5
    assert Time(1.0, 2.0, 4.0).total_s == 7.0
