import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapt.cost.memory import Memory, codes_bytes, container, payload_bytes, stored_bytes, training_memory
from fedapt.cost.peaks import Moments, Peaks
from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape, layer_shapes
from fedapt.cost.trace import trace_layer, trace_step

# Hand count for the two layers of `small`: 48 floats after the ReLU, 5 log-probabilities; 32 floats and a label in.
SAVED = SavedBytes(per_sample=212, fixed=4, input_per_sample=136)
# Two moments: 300 bytes a sample and 1000 more, and 960 more while the dense layer dequantises its 240 weights.
MOMENTS = Moments(np.array([300.0, 212.0]), np.array([1000.0, 900.0]), np.zeros(2), np.zeros(2), np.array([[0, 0], [0, 960.0]]))
PEAKS = Peaks(("0", "3"), {1: MOMENTS})


@pytest.fixture
def shapes(small):
    return layer_shapes(small, (2, 4, 4))


def test_peak_memory_equals_a_hand_count(shapes):
    """54 weights at 5 bits are 270 bits, 34 bytes; 240 at 3 bits are 90 bytes. 8 scales with zeros and 8 biases.

    At 3 samples the moments have 1900 and 1536 + 960 bytes alive, of which 3 * 212 + 4 = 640 are saved.
    """
    trace = trace_step(shapes, {"0": 5, "3": 3}, SAVED, peaks=PEAKS)
    expected = Memory(124, 64, 32, 640, 2496 - 640, 3 * 136, optimiser_bytes=7, buffers_bytes=9)
    assert training_memory(trace, 3, packed=True, optimiser_bytes=7, buffers_bytes=9) == expected
    assert expected.total_bytes == 124 + 64 + 32 + 2496 + 408 + 7 + 9


def test_a_float_layer_has_no_scales_and_no_scratch(shapes):
    """Weights: 4 * (54 + 240) bytes. The highest moment left has 1900 bytes alive at 3 samples."""
    memory = training_memory(trace_step(shapes, {"0": 32, "3": 32}, SAVED, peaks=PEAKS), 3, packed=True)
    assert (memory.codes_bytes, memory.scales_bytes, memory.transient_bytes) == (1176, 0, 1900 - 640)


def test_who_trains_nothing_holds_only_the_model(shapes):
    memory = training_memory(trace_step(shapes, {"0": 8, "3": 8}, SAVED, peaks=PEAKS), 0, packed=True)
    assert memory.total_bytes == 294 + 64 + 32


def test_containers_are_what_the_client_keeps_codes_in(shapes):
    """5 and 3 bits take a byte each."""
    trace = trace_step(shapes, {"0": 5, "3": 3}, SAVED)
    assert training_memory(trace, 1, packed=False).codes_bytes == 294
    assert [container(bits) for bits in (2, 4, 8, 9, 16, 32)] == [8, 8, 8, 16, 16, 32]


@pytest.mark.parametrize(("bits", "saved"), [(16, 0.6), (11, 0.725), (4, 0.9)])
def test_parameter_memory_against_quantisation_aware_training_is_as_apt_accounts_it(bits, saved):
    """Quantisation-aware training keeps 32 + 8 bits a weight: 8000 weights are 40000 bytes."""
    shape = LayerShape("dense", "linear", 8000, 1, 0, 1, 1, 1, True)
    master = codes_bytes(trace_layer(shape, 8, master=True), packed=True)
    assert master == 40000
    assert 1 - codes_bytes(trace_layer(shape, bits), packed=True) / master == pytest.approx(saved)


def test_four_bits_save_seven_eighths_of_the_parameter_memory_of_floats():
    four, whole = (trace_layer(LayerShape("dense", "linear", 8000, 1, 0, 1, 1, 1, True), bits) for bits in (4, 32))
    assert 1 - codes_bytes(four, packed=True) / codes_bytes(whole, packed=True) == 0.875


def test_a_master_crosses_the_network_without_its_copy():
    """1000 weights, 10 channels, 10 biases. Held: 4000 + 1000 + 80 + 40 bytes; sent: 4000 + 40."""
    layer = trace_layer(LayerShape("dense", "linear", 1000, 10, 10, 1000, 100, 10, True), 8, master=True)
    assert (stored_bytes(layer), payload_bytes(layer)) == (5120, 4040)


@settings(deadline=None)
@given(bits=st.integers(2, 15), weights=st.integers(1, 10**6))
def test_memory_never_shrinks_with_bits_and_never_exceeds_its_container(bits, weights):
    shape = LayerShape("dense", "linear", weights, 1, 0, 1, 1, 1, True)
    narrow, wide = trace_layer(shape, bits), trace_layer(shape, bits + 1)
    assert codes_bytes(narrow, True) <= codes_bytes(wide, True)
    assert codes_bytes(narrow, False) <= codes_bytes(wide, False)
    assert codes_bytes(narrow, True) <= codes_bytes(narrow, False) <= 4 * weights
