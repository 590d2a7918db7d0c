import pytest

from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape, layer_shapes
from fedapt.cost.trace import LayerTrace, Op, exact_ops, trace_layer, trace_step

DENSE = LayerShape("dense", "linear", 1000, 10, 10, 1000, 100, 10, True)
NOTHING = SavedBytes(0, 0, 0)


def test_backpropagation_is_forward_error_weight_gradient_and_update():
    assert exact_ops(DENSE, 4) == (
        Op("dense", "forward", 1000, 4),
        Op("dense", "error", 1000, 4),
        Op("dense", "weight_gradient", 1000, 4),
        Op("dense", "update", 1000, 4),
        Op("dense", "update", 10, 32),
    )


def test_the_first_layer_needs_no_error(small):
    """3 * 240 MACs of the dense layer, 2 * 864 of the convolution; updates of 54 + 3 and 240 + 5 parameters a step."""
    trace = trace_step(layer_shapes(small, (2, 4, 4)), {"0": 8, "3": 4}, NOTHING)
    assert [layer.sample_macs for layer in trace.layers] == [1728, 720]
    assert trace.macs(samples=10, steps=3) == 10 * 2448 + 3 * (57 + 245)


@pytest.mark.parametrize("bits", [2, 11, 16, 32])
def test_a_single_copy_moves_four_times_its_bits_a_step(bits):
    """Read forward, read backward, read and written by the update: 4k bits a weight."""
    alone = LayerShape("dense", "linear", 1000, 0, 0, 1000, 100, 10, True)
    assert trace_layer(alone, bits).moved_bits == 4 * bits * 1000


def test_scales_are_read_three_times_and_biases_moved_four_times():
    """4 * 4 * 1000 of weights, 3 * 32 * 10 of scales, 4 * 32 * 10 of biases; as float there are no scales."""
    assert trace_layer(DENSE, 4).moved_bits == 16000 + 960 + 1280
    assert trace_layer(DENSE, 32).moved_bits == 128000 + 1280


def test_a_frozen_layer_is_only_read_forward():
    frozen = LayerTrace(DENSE, 8, (Op("dense", "forward", 1000, 8),))
    assert frozen.moved_bits == 8 * 1000 + 32 * 20
    assert frozen.step_macs == 0


def test_activations_are_written_and_read_once_and_inputs_read_twice():
    trace = trace_step((), {}, SavedBytes(per_sample=100, fixed=7, input_per_sample=10))
    assert trace.moved_bytes(samples=6, steps=2) == 2 * (6 * 110 + 2 * 7)


def test_layers_that_are_not_named_are_float():
    assert trace_step((DENSE,), {}, NOTHING).layers[0].bits == 32


@pytest.mark.parametrize(("bits", "message"), [({"dens": 4}, "dens"), ({"norm": 4}, "norm"), ({"dense": 17}, "2 to 16")])
def test_impossible_bits_are_refused(bits, message):
    norm = LayerShape("norm", "float", 0, 0, 8, 8, 8, 8, True)
    with pytest.raises(ValueError, match=message):
        trace_step((DENSE, norm), bits, NOTHING)
