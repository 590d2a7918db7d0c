import pytest

from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape, layer_shapes
from fedapt.cost.trace import LayerTrace, Op, ops_of, trace_layer, trace_step
from fedapt.quant import OperandWidths

DENSE = LayerShape("dense", "linear", 1000, 10, 10, 1000, 100, 10, True)
FROZEN = LayerShape("dense", "linear", 1000, 10, 10, 1000, 100, 10, True, trainable=False)
ALONE = LayerShape("dense", "linear", 1000, 0, 0, 1000, 100, 10, True)
NOTHING = SavedBytes(0, 0, 0)


def test_backpropagation_is_forward_error_weight_gradient_and_update():
    assert ops_of(DENSE, 4) == (
        Op("dense", "forward", 1000, 4),
        Op("dense", "error", 1000, 4),
        Op("dense", "weight_gradient", 1000, 4, saved_numbers=100),
        Op("dense", "update", 1000, 4),
        Op("dense", "update", 10, 32),
    )


def test_the_first_layer_needs_no_error(small):
    """3 * 240 MACs of the dense layer, 2 * 864 of the convolution; updates of 54 + 3 and 240 + 5 parameters a step."""
    trace = trace_step(layer_shapes(small, (2, 4, 4)), {"0": 8, "3": 4}, NOTHING)
    assert [layer.sample_macs for layer in trace.layers] == [1728, 720]
    assert trace.macs(samples=10, steps=3) == 10 * 2448 + 3 * (57 + 245)


def test_a_frozen_layer_runs_forward_and_passes_on_an_error_that_someone_waits_for():
    first = LayerShape("dense", "linear", 1000, 10, 10, 1000, 100, 10, trainable_before=False, trainable=False)
    assert [op.kind for op in ops_of(FROZEN, 8)] == ["forward", "error"]
    assert [op.kind for op in ops_of(first, 8)] == ["forward"]


@pytest.mark.parametrize(
    ("kind", "bits"), [("forward", (4, 6)), ("error", (4, 7)), ("weight_gradient", (6, 7)), ("update", (4, 32))]
)
def test_what_is_multiplied_are_weights_activations_and_errors_in_turn(kind, bits):
    assert Op("dense", kind, 1, 4).operand_bits(OperandWidths(activations=6, errors=7)) == bits


@pytest.mark.parametrize("bits", [2, 11, 16, 32])
def test_a_single_copy_moves_four_times_its_bits_a_step(bits):
    """Read forward, read backward, read and written by the update: 4k bits a weight."""
    assert trace_layer(ALONE, bits).moved_bits == 4 * bits * 1000


def test_a_copy_with_a_float_master_moves_88_bits_at_8_and_a_float_weight_needs_no_copy():
    """The copy is read forward and backward and written, 24 bits; the master is read and written, 64."""
    assert trace_layer(ALONE, 8, master=True).moved_bits == 88 * 1000
    assert trace_layer(ALONE, 32, master=True).moved_bits == 128 * 1000


def test_scales_and_zeros_are_read_twice_scales_once_more_and_biases_moved_four_times():
    """4 * 4 * 1000 of weights, (2 * 64 + 32) * 10 of scales and zeros, 4 * 32 * 10 of biases; as float there are no scales."""
    assert trace_layer(DENSE, 4).moved_bits == 16000 + 1600 + 1280
    assert trace_layer(DENSE, 32).moved_bits == 128000 + 1280


def test_a_frozen_layer_is_only_read():
    assert trace_layer(FROZEN, 8).moved_bits == 2 * (8 * 1000 + 64 * 10 + 32 * 10)
    assert LayerTrace(DENSE, 8, (Op("dense", "forward", 1000, 8),)).moved_bits == 8 * 1000 + 64 * 10 + 32 * 10
    assert trace_layer(FROZEN, 8).step_macs == 0


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
