import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapt.cost.memory import Memory, codes_bytes, container, training_memory
from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape, layer_shapes
from fedapt.cost.trace import trace_layer, trace_step

# Hand count for the two layers of `small`: 48 floats after the ReLU, 5 log-probabilities; 32 floats and a label in.
SAVED = SavedBytes(per_sample=212, fixed=4, input_per_sample=136)


@pytest.fixture
def shapes(small):
    return layer_shapes(small, (2, 4, 4))


def test_peak_memory_equals_a_hand_count(shapes):
    """54 weights at 5 bits are 270 bits, 34 bytes; 240 at 3 bits are 90 bytes. 8 scales and 8 biases of 4 bytes.

    The dense layer is the larger one: 240 float weights while it computes and 240 gradients, 1920 bytes.
    """
    trace = trace_step(shapes, {"0": 5, "3": 3}, SAVED)
    expected = Memory(124, 32, 32, 3 * 212 + 4, 1920, 3 * 136, optimiser_bytes=7, buffers_bytes=9)
    assert training_memory(trace, 3, packed=True, optimiser_bytes=7, buffers_bytes=9) == expected
    assert expected.total_bytes == 124 + 32 + 32 + 640 + 1920 + 408 + 7 + 9


def test_containers_round_codes_up(shapes):
    """5 bits take a byte: 54; 3 bits take half a byte: 120."""
    trace = trace_step(shapes, {"0": 5, "3": 3}, SAVED)
    assert training_memory(trace, 1, packed=False).codes_bytes == 174


def test_a_float_layer_has_no_scales_and_only_a_gradient(shapes):
    """Weights: 4 * (54 + 240) bytes. The dense layer's gradient: 4 * 240."""
    memory = training_memory(trace_step(shapes, {"0": 32, "3": 32}, SAVED), 1, packed=True)
    assert (memory.codes_bytes, memory.scales_bytes, memory.transient_bytes) == (1176, 0, 960)


@pytest.mark.parametrize(("bits", "width"), [(2, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (32, 32)])
def test_containers_are_the_widths_that_processors_have(bits, width):
    assert container(bits) == width


@pytest.mark.parametrize(("bits", "saved"), [(16, 0.6), (11, 0.725), (4, 0.9)])
def test_parameter_memory_against_quantisation_aware_training_is_as_apt_accounts_it(bits, saved):
    """Quantisation-aware training keeps 32 + 8 bits a weight: 8000 weights are 40000 bytes."""
    layer = trace_layer(LayerShape("dense", "linear", 8000, 1, 0, 1, 1, 1, True), bits)
    assert 1 - codes_bytes(layer, packed=True) / 40000 == pytest.approx(saved)


@settings(deadline=None)
@given(bits=st.integers(2, 15), weights=st.integers(1, 10**6))
def test_memory_never_shrinks_with_bits_and_never_exceeds_its_container(bits, weights):
    shape = LayerShape("dense", "linear", weights, 1, 0, 1, 1, 1, True)
    narrow, wide = trace_layer(shape, bits), trace_layer(shape, bits + 1)
    assert codes_bytes(narrow, True) <= codes_bytes(wide, True)
    assert codes_bytes(narrow, False) <= codes_bytes(wide, False)
    assert codes_bytes(narrow, True) <= codes_bytes(narrow, False) <= 4 * weights
