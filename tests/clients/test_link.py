"""fedapt.clients.link: what a compressed upload is, by hand, by statistics, and by a client that sends one."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fedapt.clients.link import Compressor, Link, sent_from
from fedapt.quant import CodedWeight, FloatWeight
from fedapt.quant.parts import Part, Slice
from fedapt.quant.wire import from_bytes
from tests.clients.conftest import client, dense, message
from tests.clients.test_client import report_of


def floats(*rows):
    return FloatWeight(torch.tensor(rows))


def compressed(link, end, start=None, lost=None, seed=0):
    """Return the values that a layer's reply stands for, the relative error, and what is kept."""
    lost = {} if lost is None else lost
    start = start or floats(*torch.zeros_like(end.values).tolist())
    generator = torch.Generator().manual_seed(seed)
    sent, error = Compressor(link, {"a": start}, lost, generator).compress({"a": end})
    return sent["a"], error, lost


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"error_feedback": True}, "`error_feedback` needs `bits` to compress to and `send: delta`"),
        ({"error_feedback": True, "bits": 4, "send": "model"}, "`error_feedback` needs `bits` to compress to and `send: delta`"),
        ({"rounding": "nearest"}, "`rounding` is of an upload that is compressed, and without `bits` it is not"),
        ({"bits": 1}, "greater than or equal to 2"),
        ({"bits": 17}, "less than or equal to 16"),
        ({"down": "truncate"}, "'stochastic' or 'nearest'"),
    ],
)
def test_a_combination_that_means_nothing_is_refused_in_a_sentence(options, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Link(**options)


def test_without_bits_the_weights_are_sent_as_they_are():
    end = floats([1.0, 2.0])
    sent, error, _ = compressed(Link(), end)
    assert sent is end and error is None


def test_two_bits_of_a_delta_are_its_sign_and_its_size_by_channel():
    sent, error, _ = compressed(
        Link(bits=2, rounding="nearest"), floats([2.0, 0.5, -1.75], [0.25, 1.0, 1.0]), floats([1.0, 1.0, -1.0], [0.25, 0.5, 0.75])
    )
    # Deltas 1, -.5, -.75 and 0, .5, .25: one step is the largest; half a step goes to the even code.
    np.testing.assert_array_equal(sent.dequantise().numpy(), [[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    assert error == pytest.approx((0.25 + 0.0625 + 0.0625) / (1 + 0.25 + 0.5625 + 0.25 + 0.0625))
    assert isinstance(sent, CodedWeight) and sent.bits == 2 and sent.grid.scale.tolist() == [1.0, 0.5]


def test_the_model_is_compressed_itself_where_it_is_sent():
    sent, error, _ = compressed(
        Link(bits=4, send="model", rounding="nearest"), floats([7.0, 3.4, -6.6]), floats([7.0, 3.0, -6.0])
    )
    np.testing.assert_array_equal(sent.dequantise().numpy(), [[7.0, 3.0, -7.0]])
    assert error == pytest.approx((0.16 + 0.16) / (49 + 11.56 + 43.56), rel=1e-5)


def test_a_stochastic_upload_is_unbiased():
    end = floats([1.0, 0.3, -0.7, 0.05])
    draws = torch.stack([compressed(Link(bits=3), end, seed=seed)[0].dequantise()[0] for seed in range(2000)])
    error = draws.mean(0) - end.values[0]
    # Steps of a third: at most a standard deviation of a sixth each.
    assert (error.abs() < 4 * (1 / 6) / 2000**0.5).all() and draws.std(0).max() > 0.1


def test_error_feedback_sends_in_the_end_what_it_lost():
    link, lost, total = Link(bits=2, rounding="nearest", error_feedback=True), {}, torch.zeros(3)
    for _ in range(20):
        sent, _, lost = compressed(link, floats([1.0, 0.3, -0.2]), lost=lost)
        total += sent.dequantise()[0]
    np.testing.assert_allclose(total + lost["a"][0], 20 * torch.tensor([1.0, 0.3, -0.2]), rtol=1e-5)
    assert total[1] > 0 > total[2] and lost["a"].abs().max() <= 1.0


def test_what_was_lost_of_a_place_waits_until_that_place_is_sent_again():
    link, lost = Link(bits=2, rounding="nearest", error_feedback=True), {}
    generator = torch.Generator().manual_seed(0)

    def sent(places, *rows):
        part = Part({"a": Slice(1, places)}, frozenset())
        compressor = Compressor(link, {"a": floats([0.0] * 3, [0.0] * 3)}, lost, generator, part)
        return compressor.compress({"a": floats(*rows)})[0]["a"].dequantise().tolist()

    assert sent((0, 2), [1.0, 0.25], [1.0, 1.0]) == [[1.0, 0.0], [1.0, 1.0]]
    assert lost["a"].tolist() == [[0.0, 0.0, 0.25], [0.0, 0.0, 0.0]]
    assert sent((1,), [1.0], [1.0]) == [[1.0], [1.0]] and lost["a"][0, 2] == 0.25
    # A quarter is left from the first time: .25 + .5 of 1 is rounded up to 1.
    assert sent((1, 2), [1.0, 0.5], [1.0, 0.0]) == [[1.0, 1.0], [1.0, 0.0]] and lost["a"][0, 2] == -0.25


def test_an_update_of_zeros_is_sent_as_zeros_without_an_error():
    sent, error, _ = compressed(Link(bits=2), floats([0.0, 0.0]))
    assert error == 0.0 and not sent.dequantise().any()


@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("send", ["delta", "model"])
def test_a_client_sends_what_its_link_says_and_how_far_it_is_off(bits, send):
    sent, link = message(dense, bits), Link(bits=3, send=send)
    start = from_bytes(sent)[0].dequantised()
    exact = from_bytes(client(dense).train(sent))[0].dequantised()
    reply = client(dense).train(message(dense, bits, link=link))
    end, report = from_bytes(reply)[0], report_of(reply)
    assert set(end.bits.values()) == {3}
    meant = {layer: exact[f"{layer}.weight"] - (send == "delta") * start[f"{layer}.weight"] for layer in end.weights}
    off = {layer: end.weights[layer].dequantise().numpy() - values for layer, values in meant.items()}
    for layer, values in off.items():
        assert (np.abs(values).reshape(len(values), -1).max(1) <= 1.001 * end.weights[layer].grid.scale.numpy()).all()
    square = [sum(float(np.square(values, dtype=np.float64).sum()) for values in some.values()) for some in (off, meant)]
    assert report.relative_error == pytest.approx(square[0] / square[1], rel=1e-4)
    for name, values in end.floats.items():
        np.testing.assert_array_equal(values, exact[name])


def test_what_error_feedback_keeps_is_used_by_the_next_round_and_nothing_else_is_kept():
    link = Link(bits=2, rounding="nearest", error_feedback=True)
    one, plain = client(dense), client(dense)
    first = one.train(message(dense, link=link))
    assert set(one.keeps) == set(from_bytes(first)[0].weights)
    again, fresh = one.train(message(dense, link=link)), client(dense).train(message(dense, link=link))
    assert again != fresh == first
    plain.train(message(dense, link=Link(bits=2)))
    assert plain.keeps == {}


def test_a_reply_counts_from_its_start_or_from_nothing():
    start = {"a": floats([3.0, 4.0])}
    assert sent_from(start, Link(bits=4, send="model")) == start == sent_from(start, Link())
    assert not sent_from(start, Link(bits=4))["a"].dequantise().any()
