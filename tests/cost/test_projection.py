import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedapt.cost.model import CostModel
from fedapt.cost.projection import Refusal, readable_bytes
from fedapt.cost.saved import SavedBytes, saved_bytes
from fedapt.cost.shapes import LayerShape, layer_shapes

SAVED = SavedBytes(per_sample=100, fixed=0, input_per_sample=10)
# Multiples of 8, so that every bit saves exactly an eighth of a byte a weight.
LAYERS = (("a", 80), ("b", 4000), ("c", 800), ("d", 800))


@pytest.fixture
def model(device):
    shapes = tuple(LayerShape(name, "linear", weights, 4, 4, weights, 10, 4, True) for name, weights in LAYERS)
    return CostModel(shapes, SAVED, device)


def total(model, bits, batches):
    return model.training_cost(bits, batches, 0, 0).memory.total_bytes


def joules(model, bits, batches):
    payload = model.payload_bytes(bits)
    return model.training_cost(bits, batches, payload, payload).energy.total_j


def bit_by_bit(model, wish, batches, memory_budget, energy_budget, lowest):
    """The rule as it is told: one bit at a time from the layer with most weights that still has one, the later of equals."""
    bits = dict(wish)
    sizes = dict(LAYERS)
    while total(model, bits, batches) > memory_budget or joules(model, bits, batches) > energy_budget:
        givers = [name for name in bits if bits[name] > lowest]
        if not givers:
            return None
        giver = max(givers, key=lambda name: (sizes[name], name))
        bits[giver] = 16 if bits[giver] == 32 else bits[giver] - 1
    return bits


widths = st.one_of(st.integers(2, 16), st.just(32))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    wish=st.tuples(widths, widths, widths, widths),
    memory=st.integers(33_000, 60_000),
    energy=st.floats(1e-5, 2e-3),
    lowest=st.integers(2, 8),
)
def test_projection_equals_taking_one_bit_at_a_time(model, wish, memory, energy, lowest):
    wished, batches = dict(zip("abcd", wish, strict=True)), [3, 3, 1]
    found = model.project(wished, batches, memory, energy, lowest=lowest)
    expected = bit_by_bit(model, wished, batches, memory, energy, lowest)
    if expected is None:
        assert isinstance(found, Refusal)
    else:
        assert found == expected


def test_a_wish_that_fits_is_granted(model):
    wish = {"a": 8, "b": 4, "c": 16, "d": 2}
    assert model.project(wish, [4], 10**6) == wish


def test_the_largest_layer_gives_first_and_the_later_of_equals_next(model):
    """At 8 bits: codes 5680, scales and biases 128, transient 32000, saved 100 and input 10: 37918 bytes.

    b gives 500 bytes a bit, 3000 down to 2 bits; c and d give 100 a bit.
    """
    wish = dict.fromkeys("abcd", 8)
    assert total(model, wish, [1]) == 37918
    assert model.project(wish, [1], 37917) == {"a": 8, "b": 7, "c": 8, "d": 8}
    assert model.project(wish, [1], 37918 - 3000 - 150) == {"a": 8, "b": 2, "c": 8, "d": 6}


def test_a_float_layer_first_drops_to_sixteen_bits(model):
    wish = {"a": 4, "b": 4, "c": 32, "d": 4}
    need = total(model, wish, [1])
    assert model.project(wish, [1], need - 1, lowest=4) == {"a": 4, "b": 4, "c": 16, "d": 4}


def test_bits_follow_an_energy_budget_alone(model):
    wish = dict.fromkeys("abcd", 8)
    spent = joules(model, wish, [8, 8])
    bits = model.project(wish, [8, 8], 10**6, 0.8 * spent)
    assert joules(model, bits, [8, 8]) <= 0.8 * spent
    assert joules(model, {**bits, "b": bits["b"] + 1}, [8, 8]) > 0.8 * spent


def test_a_refusal_says_what_is_needed_and_what_there_is(model):
    """At 2 bits: codes 1420, scales and biases 128, transient 32000, four samples of 110: 33988 bytes, 33.2 KiB."""
    refusal = model.project(dict.fromkeys("abcd", 8), [4], 33_000)
    assert (refusal.needed_bytes, refusal.available_bytes, refusal.needed_j) == (33988, 33000, None)
    assert (
        refusal.reason == "needs 33.2 KiB of memory at 2 bits and a batch of 4, has 32.2 KiB: a smaller batch or model would fit"
    )


def test_a_refusal_for_energy_advises_fewer_samples(model):
    refusal = model.project(dict.fromkeys("abcd", 8), [4] * 100, 10**6, 1e-6)
    assert refusal.available_j == 1e-6 < refusal.needed_j
    assert "J for a round at 2 bits, has 1e-06 J: fewer samples" in refusal.reason


def test_layers_that_are_not_wished_for_stay_float_and_are_charged(model):
    bits = {"a": 8, "c": 8, "d": 8}
    assert model.project(bits, [1], total(model, bits, [1])) == bits
    assert isinstance(model.project({}, [1], total(model, {}, [1]) - 1), Refusal)


def test_buffers_take_room_from_the_weights(model):
    wish = dict.fromkeys("abcd", 8)
    assert model.project(wish, [1], 37918) == wish
    assert model.project(wish, [1], 37918, buffers_bytes=200, optimiser_bytes=300)["b"] == 7


def test_the_cnn_fits_a_microcontroller_at_a_batch_of_two(cnn, device):
    """Saved 2 * 79144 + 4, batch 2 * 3144, transient 8 * 32768, 244 floats: 427700 bytes; codes at 8 bits 46608 bytes.

    455000 bytes leave 27300 for codes: 19308 too few, five bits of the dense layer, which are 4096 bytes each.
    """
    model = CostModel(layer_shapes(cnn, (1, 28, 28)), saved_bytes(cnn, (1, 28, 28)), device)
    wish = {shape.name: 8 for shape in model.shapes}
    assert model.project(wish, [2] * 10, 2**20) == wish
    tight = model.project(wish, [2] * 10, 455_000)
    assert tight == {"0": 8, "3": 8, "7": 3, "9": 8}


@pytest.mark.parametrize(("count", "text"), [(5, "5 B"), (1536, "1.5 KiB"), (2**20, "1 MiB"), (3.2 * 2**30, "3.2 GiB")])
def test_bytes_are_written_in_the_unit_that_they_fill(count, text):
    assert readable_bytes(count) == text
