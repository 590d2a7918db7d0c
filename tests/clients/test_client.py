"""fedapt.clients.client: one client trains one copy, and the same message gives the same bytes."""

import json
import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedapt.clients import client as client_module
from fedapt.clients.client import channels_last
from fedapt.clients.continual.memory import Continual
from fedapt.clients.instructions import TrainReport
from fedapt.clients.samples.filter import Filter, Session
from fedapt.data.examples import Examples
from fedapt.errors import DamagedData, RunFailed, SetupError
from fedapt.quant import GridOptions, LayerStatistics, SingleCopySGD
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.wire import from_bytes, to_bytes
from tests.clients.conftest import client, dense, examples, message, moody
from tests.quant.live import Storages


def report_of(reply):
    return TrainReport.model_validate_json(json.dumps(from_bytes(reply)[1]["report"]))


def evaluated(reply):
    """Return the report of an evaluation, which comes without a model."""
    model, header = from_bytes(reply)
    assert not model.weights and not model.floats
    return header["report"]


def payload_of(reply):
    """Return the model in a message as bytes, without its header."""
    return to_bytes(from_bytes(reply)[0], {})


@pytest.mark.parametrize("bits", [*range(2, 17), 32])
@pytest.mark.parametrize("model", [dense, moody])
def test_without_an_epoch_the_codes_come_back_to_the_last_bit(model, bits):
    sent = message(model, bits, epochs=0)
    reply = client(model).train(sent)
    assert payload_of(reply) == payload_of(sent)
    assert report_of(reply) == TrainReport(samples=30, batches={}, train_loss=None, layers={})


@pytest.mark.parametrize("bits", [4, 11, 32])
@pytest.mark.parametrize("model", [dense, moody])
def test_the_same_message_gives_the_same_bytes_whoever_trained_in_between(model, bits):
    torch.manual_seed(int(bits))
    sent, one = message(model, bits), client(model)
    first = one.train(sent)
    other = client(model, rows=range(5, 25), skeleton=one.skeleton)
    other.train(message(model, 6, client=8, epochs=2, lr=1.0))
    other.evaluate(message(model, 3))
    torch.rand(3)
    assert one.train(sent) == first == client(model).train(sent)


def test_training_leaves_torchs_global_random_state_alone():
    one, sent = client(moody), message(moody)
    before = torch.random.get_rng_state()
    one.train(sent)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("other", [{"round": 3}, {"client": 8}, {"seed": 6}])
def test_another_round_client_and_seed_draw_other_numbers(trains, other):
    def codes(rounding, **changes):
        # One batch of all samples: their order does not matter, so that only the rounding can differ.
        weights = from_bytes(trains(batch=30, lr=0.5, rounding=rounding, **changes))[0].weights
        return [weight.codes.tolist() for weight in weights.values()]

    assert codes("truncate") == codes("truncate", **other)
    assert codes("stochastic") != codes("stochastic", **other)
    # Float weights, which are not rounded: only the batches differ.
    assert payload_of(trains(32)) != payload_of(trains(32, **other))


def test_training_moves_codes_and_lowers_the_loss(trains):
    sent, reply = message(dense, 8), trains(8, epochs=15)
    assert payload_of(sent) != payload_of(reply)
    assert report_of(reply).train_loss < 0.5 * math.log(3)
    assert from_bytes(reply)[0].bits == from_bytes(sent)[0].bits == {"1": 8, "3": 8}


def test_in_float_a_client_is_a_plain_loop_of_torch():
    """for each epoch, for each batch of the shuffled rows: w -= lr * gradient of the mean cross-entropy"""
    reference, data = dense(), examples()
    order = []

    class Recording(Continual):
        kind: Literal["recording"] = "recording"

        def extend(self, inputs, labels):
            order.append((inputs, labels))
            return inputs, labels

    reply = client(dense, continual=Recording()).train(message(dense, 32, epochs=2, batch=7))
    torch_sgd = torch.optim.SGD(reference.parameters(), lr=0.1)
    losses = []
    for inputs, labels in order:
        loss = F.cross_entropy(reference(inputs), labels)
        torch_sgd.zero_grad()
        loss.backward()
        torch_sgd.step()
        losses.append(loss.item())
    arrays = from_bytes(reply)[0].dequantised()
    for name, expected in reference.named_parameters():
        assert arrays[name] == pytest.approx(expected.detach().numpy(), rel=1e-4, abs=1e-6)
    assert report_of(reply).train_loss == pytest.approx(np.mean(losses), rel=1e-5)
    every = torch.cat([inputs for inputs, _ in order[:5]])
    expected, _ = data.batch(np.arange(30))
    assert sorted(every.flatten(1).tolist()) == sorted(expected.flatten(1).tolist())
    assert not torch.equal(order[0][0], order[5][0])


def test_the_sizes_of_the_batches_are_reported(trains):
    assert report_of(trains(batch=8)).batches == {8: 3, 6: 1}
    assert report_of(trains(batch=8, epochs=2)).batches == {8: 6, 6: 2}
    assert report_of(trains(batch=1000)).batches == {30: 1}


def test_one_sample_is_enough(trains):
    report = report_of(trains(rows=[4]))
    assert report.samples == 1 and report.batches == {1: 1}
    assert set(report.layers) == {"1", "3"} and report.layers["3"].gavg > 0


def test_a_client_without_samples_returns_what_it_was_sent(trains):
    reply = trains(rows=[])
    assert payload_of(reply) == payload_of(message(dense))
    assert report_of(reply) == TrainReport(samples=0, batches={}, train_loss=None, layers={})


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 8, 30])
def test_statistics_are_of_the_last_quarter_of_an_epoch_and_at_least_of_its_last_step(batches, monkeypatch):
    observed = []

    class Spy(SingleCopySGD):
        def step(self, observe=True):
            observed.append(observe)
            return super().step(observe)

    monkeypatch.setattr(client_module, "SingleCopySGD", Spy)
    client(dense, rows=range(batches)).train(message(dense, batch=1))
    assert len(observed) == batches and observed[-1] and observed == sorted(observed)
    assert batches / 4 <= sum(observed) < batches / 4 + 2


def test_statistics_are_of_the_last_epoch():
    # The gradients of the first step are large: a mean over both epochs would remember them.
    statistics = [
        report_of(client(dense).train(message(dense, 12, epochs=epochs, batch=30, lr=0.5))).layers["3"].gavg for epochs in (1, 80)
    ]
    assert statistics[1] < 0.3 * statistics[0]


def test_gavg_is_the_mean_gradient_over_the_layers_step():
    start, one = from_bytes(message(dense, 10))[0], client(dense)
    reference = dense()
    reference.load_state_dict({name: torch.from_numpy(array) for name, array in start.dequantised().items()})
    F.cross_entropy(reference(one.examples.batch(one.rows)[0]), one.examples.batch(one.rows)[1]).backward()
    layers = report_of(one.train(message(dense, 10, batch=30, rounding="truncate"))).layers
    for name, layer in layers.items():
        gradient, scale = reference[int(name)].weight.grad.numpy(), start.weights[name].grid.scale.numpy()[:, None]
        assert layer.gavg == pytest.approx(np.abs(gradient / scale).mean(), rel=1e-4)
        lost = (np.abs(0.1 * gradient / scale) < 1) & (gradient != 0)
        assert layer.underflow_share == pytest.approx(lost.mean(), abs=1e-6)


def test_truncated_at_four_bits_a_client_stands_still_and_says_so(trains):
    reply = trains(4, rounding="truncate", lr=1e-4)
    start, end = from_bytes(message(dense, 4))[0], from_bytes(reply)[0]
    assert all(torch.equal(start.weights[name].codes, end.weights[name].codes) for name in start.weights)
    assert all(layer.underflow_share > 0.5 and layer.clip_share == 0 for layer in report_of(reply).layers.values())


@pytest.mark.parametrize("bits", [4, 32])
def test_a_loss_that_is_not_finite_ends_the_training_in_a_sentence(bits):
    one = client(dense)
    expected = one.train(message(dense, bits))
    with pytest.raises(RunFailed, match=r"the loss became (nan|inf) in step \d+: lower clients\.local\.lr"):
        one.train(message(dense, bits, lr=3e38, epochs=5))
    assert one.train(message(dense, bits)) == expected


def test_grids_that_clip_are_laid_anew_between_two_epochs():
    grid = GridOptions(headroom=1.0)
    sent = message(dense, 4, grid=grid, lr=1.0, epochs=1)
    clipped = {name: layer.clip_share > 0.01 for name, layer in report_of(client(dense).train(sent)).layers.items()}
    assert any(clipped.values())
    for epochs in (1, 2):
        end = from_bytes(client(dense).train(message(dense, 4, grid=grid, lr=1.0, epochs=epochs)))[0]
        for name, weight in from_bytes(sent)[0].weights.items():
            same = torch.equal(end.weights[name].grid.scale, weight.grid.scale)
            assert same == (epochs == 1 or not clipped[name])
            assert end.weights[name].bits == 4


def test_grids_that_do_not_clip_stay():
    end = from_bytes(client(dense).train(message(dense, 8, lr=1e-3, epochs=3)))[0]
    for name, weight in from_bytes(message(dense, 8))[0].weights.items():
        assert torch.equal(end.weights[name].grid.scale, weight.grid.scale)


def test_a_pull_to_the_start_keeps_weights_nearer_to_it(trains):
    def distance(mu):
        start, end = (from_bytes(data)[0].dequantised() for data in (message(dense, 16), trains(16, epochs=5, proximal_mu=mu)))
        return sum(np.abs(end[name] - start[name]).sum() for name in start)

    assert distance(5.0) < 0.5 * distance(0.0)


class Deciding(Filter):
    """A filter that lets `decide` choose of all that went forward."""

    kind: Literal["deciding"] = "deciding"
    decide: Any

    def open(self, keeps, generator):
        session = Session()
        session.choose = self.decide
        return session


def test_a_filter_chooses_the_samples_that_are_learned_from_and_the_loss_is_of_all_that_went_forward():
    sent = message(dense, 32, batch=30)
    reply = client(dense, samples=Deciding(decide=lambda losses: losses.topk(1).indices)).train(sent)
    model, one = dense(), client(dense)
    losses = F.cross_entropy(model(one.examples.batch(one.rows)[0]), one.examples.batch(one.rows)[1], reduction="none")
    losses.max().backward()
    assert report_of(reply).train_loss == pytest.approx(losses.mean().item(), rel=1e-5)
    expected = model[3].weight.detach() - 0.1 * model[3].weight.grad
    assert from_bytes(reply)[0].dequantised()["3.weight"] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)


def test_while_it_trains_a_client_holds_no_second_copy():
    alive = []
    sent = message(dense, 8, batch=1, epochs=2)
    one = client(dense, samples=Deciding(decide=lambda losses: alive.append(storages.alive())))
    # Both layers have at least 27 weights; one sample's activations have at most 12 numbers, the biases 9.
    with Storages(least=27) as storages:
        one.train(sent)
    assert alive == [[]] * 60 and storages.most_sizes == 1


@pytest.mark.parametrize("numbers", [1, 100, 10**6])
def test_how_many_samples_are_gathered_at_a_time_changes_no_bit(numbers):
    sent = message(dense, 8, batch=7, epochs=2)
    assert client(dense, gathered=numbers).train(sent) == client(dense).train(sent)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_with_their_channels_last_are_the_same_images(channels):
    images = torch.arange(2.0 * channels * 5 * 4).view(2, channels, 5, 4)
    laid = channels_last(images)
    assert torch.equal(laid, images) and laid.stride()[1] == 1
    assert channels_last(images[0]) is not laid
    assert channels_last(images[0]).stride() == images[0].stride()


def test_with_channels_last_a_client_learns_the_same_but_for_the_last_bits():
    def convolving():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(4, 3))

    sent = message(convolving, 32, epochs=2)
    plain, laid = (from_bytes(client(convolving, channels_last=on).train(sent))[0].dequantised() for on in (False, True))
    assert all(laid[name] == pytest.approx(values, rel=1e-4, abs=1e-6) for name, values in plain.items())


@pytest.mark.parametrize("held_out", [range(30, 40), range(40), [3]])
@pytest.mark.parametrize("bits", [3, 32])
def test_evaluation_counts_what_the_model_at_its_own_bits_gets_right(held_out, bits):
    sent, one = message(dense, bits), client(dense, held_out=held_out)
    report = evaluated(one.evaluate(sent))
    arrays = {name: array.astype(np.float64) for name, array in from_bytes(sent)[0].dequantised().items()}
    inputs, labels = (values.numpy() for values in one.examples.batch(one.held_out))
    hidden = np.maximum(inputs.reshape(len(labels), -1) @ arrays["1.weight"].T + arrays["1.bias"], 0)
    logits = hidden @ arrays["3.weight"].T + arrays["3.bias"]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    assert report == {
        "kind": "evaluated",
        "samples": len(labels),
        "correct": int((logits.argmax(1) == labels).sum()),
        "loss": pytest.approx(losses.mean(), rel=1e-4),
    }


def test_evaluation_takes_no_larger_batches_than_training_is_told_to(monkeypatch):
    sizes, batch = [], Examples.batch

    def counted(self, rows):
        sizes.append(len(rows))
        return batch(self, rows)

    monkeypatch.setattr(Examples, "batch", counted)
    client(dense, held_out=range(10)).evaluate(message(dense, batch=4))
    assert sizes == [4, 4, 2]


def test_evaluation_in_several_batches_is_the_same(monkeypatch):
    whole = client(dense, held_out=range(40)).evaluate(message(dense, batch=40))
    monkeypatch.setattr(client_module, "EVALUATION_BATCH", 7)
    parts = evaluated(client(dense, held_out=range(40)).evaluate(message(dense, batch=40)))
    assert parts == evaluated(whole) | {"loss": pytest.approx(evaluated(whole)["loss"], rel=1e-5)}


def test_evaluation_uses_the_norms_running_means_and_drops_nothing_out():
    sent = message(moody)
    assert client(moody).evaluate(sent) == client(moody).evaluate(sent)
    one, all_of_them = client(moody, held_out=[30]), client(moody, held_out=[30, 31])
    both = [evaluated(c.evaluate(sent))["loss"] for c in (one, client(moody, held_out=[31]), all_of_them)]
    assert (both[0] + both[1]) / 2 == pytest.approx(both[2], rel=1e-5)


def test_without_held_out_samples_the_evaluation_is_of_nothing():
    report = evaluated(client(dense, held_out=[]).evaluate(message(dense)))
    assert report == {"kind": "evaluated", "samples": 0, "correct": 0, "loss": 0.0}


@pytest.mark.parametrize(
    ("instructions", "sentence"),
    [
        (None, "instructions: Input should be"),
        ({}, "instructions.seed: Field required"),
        ([1], "instructions: Input should be"),
    ],
)
def test_a_message_without_usable_instructions_is_damaged_data(instructions, sentence):
    model, _ = from_bytes(message(dense))
    for header in ({"instructions": instructions}, {} if instructions is None else {"instructions": instructions}):
        with pytest.raises(DamagedData, match=f"the message's header is not valid: {sentence}"):
            client(dense).train(to_bytes(model, header))


def test_a_message_for_another_model_and_noise_are_damaged_data():
    for work in (client(dense).train, client(dense).evaluate):
        with pytest.raises(DamagedData, match="the message is for another model"):
            work(message(moody))
        with pytest.raises(DamagedData, match="the message is not one of fedapt's"):
            work(b"noise")


def test_a_client_can_be_built_on_any_skeleton_of_its_model():
    skeleton = Skeleton(dense)
    sent = message(dense)
    assert client(dense, skeleton=skeleton).train(sent) == client(dense).train(sent)


@pytest.mark.parametrize("work", ["train", "evaluate"])
def test_a_reply_names_its_round_its_client_and_the_message_that_it_answers(work):
    sent = message(dense, round=9, client=3)
    header = from_bytes(getattr(client(dense), work)(sent))[1]
    digest = sent.split(b'digest\\":\\"')[1][:64].decode()
    assert header["reply_to"] == {"round": 9, "client": 3, "digest": digest}


class Steep(nn.Module):
    """Adds nothing, and has a gradient that is no number: 0 * infinity."""

    def forward(self, x):
        return x + (x - x.detach()).abs().sqrt()


def steep():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), Steep(), nn.Linear(9, 3))


@pytest.mark.parametrize("bits", [2, 4, 11, 32])
@pytest.mark.parametrize("rounding", ["stochastic", "truncate"])
def test_a_gradient_that_is_no_number_ends_the_training_before_it_becomes_a_code(bits, rounding):
    one, sent = client(steep), message(steep, bits, rounding=rounding)
    with pytest.raises(RunFailed, match=r"^the gradient of 1 became non-finite in step 1: lower clients\.local\.lr$"):
        one.train(sent)
    start, here = from_bytes(sent)[0].weights["1"], one.skeleton.quantised.layers["1"].weight
    assert torch.equal(start.dequantise(), here.dequantise())


def test_a_float_parameter_that_is_no_number_is_named():
    def overflow(losses):
        with torch.no_grad():
            one.skeleton.model[3].bias[:2] = math.inf

    one = client(dense, samples=Deciding(decide=overflow))
    with pytest.raises(RunFailed, match=r"^3\.bias became non-finite \(2 values\): lower clients\.local\.lr$"):
        one.train(message(dense, batch=30))


def test_a_gavg_that_is_not_finite_is_a_sentence(monkeypatch):
    seen = {"1": LayerStatistics(math.inf, 0.0, 0.0)}
    monkeypatch.setattr(SingleCopySGD, "take_statistics", lambda self: seen)
    with pytest.raises(RunFailed, match=r"^layer 1: Gavg became inf, the gradients are too large: lower clients\.local\.lr$"):
        client(dense).train(message(dense))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_evaluation_loss_that_is_not_finite_is_a_sentence(monkeypatch, value):
    monkeypatch.setattr(client_module.F, "cross_entropy", lambda *args, **options: torch.tensor(value))
    with pytest.raises(RunFailed, match=r"^the loss on the held-out samples is (nan|inf): the model diverged"):
        client(dense).evaluate(message(dense))


def test_a_client_of_another_protocol_says_which_side_to_upgrade():
    sent = message(dense).replace(b'protocol\\":3', b'protocol\\":4')
    with pytest.raises(SetupError, match=r"^client speaks v3, server v4: upgrade the client$") as error:
        client(dense).train(sent)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("bits", [4, 32])
def test_a_client_that_is_to_stop_early_does_the_first_steps_of_its_usual_work(trains, bits):
    """Thirty samples in batches of eight are four steps an epoch: five steps are the first epoch and a batch more."""
    short = trains(bits, epochs=3, most_steps=5)
    report = report_of(short)
    assert (report.batches, report.samples) == ({8: 4, 6: 1}, 30)
    assert payload_of(trains(bits, epochs=3, most_steps=4)) == payload_of(trains(bits, epochs=1))
    assert payload_of(trains(bits, epochs=3, most_steps=12)) == payload_of(trains(bits, epochs=3))
    assert report_of(trains(bits, most_steps=2)).samples == 16


def corrected(value, bits=4, **changes):
    """Return the message of `dense` with a correction that is this number everywhere."""
    model, header = from_bytes(message(dense, bits, **changes), reader="client")
    whole = {name: torch.full(array.shape, value) for name, array in model.dequantised().items()}
    return to_bytes(replace(model, correction=whole), header)


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_a_correction_is_added_to_the_gradient_of_a_step_beside_fedproxs_pull(mu):
    told = {"batch": 30, "proximal_mu": mu}
    ends = [from_bytes(client(dense).train(corrected(value, 32, **told)))[0].dequantised() for value in (0.0, 0.25)]
    for name, values in ends[0].items():
        np.testing.assert_allclose(ends[1][name] - values, -0.1 * 0.25, atol=1e-6, err_msg=name)


def test_a_client_that_was_corrected_sends_no_correction_back():
    reply = client(dense).train(corrected(0.1))
    assert from_bytes(reply)[0].correction == {}
