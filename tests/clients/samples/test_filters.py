"""Sample filters: what a client computes, reports and is charged for, against hand counts."""

import json
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedapt.clients.instructions import TrainReport
from fedapt.clients.samples import FILTERS
from fedapt.clients.samples.filter import Filter, Filtered, Session, share_of
from fedapt.clients.samples.instance_filter import PARTS, PREFIX, averaged, features
from fedapt.cost.trace import Spared
from fedapt.errors import ScenarioError
from fedapt.quant.wire import from_bytes
from tests.clients.conftest import client, dense, message, moody


def made(kind, **options):
    return FILTERS[kind].model_validate({"kind": kind, **options})


def trained(chooses, model=dense, bits=32, **changes):
    one = client(model, samples=chooses)
    end, header = from_bytes(one.train(message(model, bits, **changes)))
    return end, TrainReport.model_validate_json(json.dumps(header["report"])), one


class Broad(type(made("loss_topk"))):
    """As `loss_topk`, with layers that compute every sample's gradient."""

    narrows = False


class Nothing(Filter):
    kind: Literal["nothing"] = "nothing"
    exact = False

    def open(self, keeps, generator):
        session = Session()
        session.choose = lambda losses: torch.zeros(0, dtype=torch.int64)
        return session


def test_a_share_is_rounded_up_as_if_numbers_had_no_rounding():
    assert [share_of(0.55, 20), share_of(0.3, 10), share_of(0.3, 32), share_of(0.15, 1)] == [11, 3, 10, 1]


def test_the_largest_losses_go_backward_and_of_equal_ones_the_first():
    session = made("loss_topk", keep=0.5).open({}, np.random.default_rng(0))
    assert session.choose(torch.tensor([1.0, 3.0, 2.0, 2.0, 2.0])).tolist() == [1, 2, 3]


def test_a_random_subset_is_another_one_in_each_batch_and_the_same_for_the_same_stream():
    draws = []
    for seed in (0, 0, 1):
        session = made("random", keep=0.3).open({}, np.random.default_rng(seed))
        draws.append([session.screen(torch.zeros(10, 2)).tolist() for _ in range(20)])
    assert draws[0] == draws[1] != draws[2] and len({tuple(one) for one in draws[0]}) > 10
    assert {number for one in draws[0] for number in one} == set(range(10))


@pytest.mark.parametrize("bits", [32, 8])
@pytest.mark.parametrize("model", [dense, moody])
def test_a_gradient_of_the_samples_with_an_error_is_that_of_all_samples(model, bits):
    """Sums are of fewer terms, in another order: the last bits may differ, and with them a code that is rounded by chance."""
    ends = [
        trained(chooses(keep=0.3), model, bits, rounding="nearest")[0].dequantised() for chooses in (FILTERS["loss_topk"], Broad)
    ]
    for name, values in ends[0].items():
        np.testing.assert_allclose(values, ends[1][name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_layers_compute_the_gradients_of_the_chosen_samples_alone(monkeypatch):
    seen = []
    true = torch.Tensor.index_select

    def watched(tensor, dim, rows):
        seen.append(len(rows))
        return true(tensor, dim, rows)

    monkeypatch.setattr(torch.Tensor, "index_select", watched)
    trained(made("loss_topk", keep=0.25), batch=8)
    # Of each of two layers error and input: 2 of 8 samples in three batches, and 2 of the last 6.
    assert seen == [2] * 16


def test_reports_count_what_went_forward_and_what_went_backward():
    """Thirty samples in batches of eight: three of 8 and one of 6, twice."""
    report = trained(made("loss_topk", keep=0.3), epochs=2)[1]
    assert report.batches == {8: 6, 6: 2} and report.filtered == Filtered(seen=60, trained=6 * 3 + 2 * 2, steps=8)
    report = trained(made("random", keep=0.3), epochs=2)[1]
    assert report.batches == {3: 6, 2: 2} and report.filtered == Filtered(seen=60, trained=22, steps=8)
    assert report.samples == 30


def test_where_nothing_is_worth_it_nothing_moves_and_no_step_is_counted():
    end, report, _ = trained(Nothing())
    assert report.filtered == Filtered(seen=30, trained=0, steps=0) and report.steps == 0 and report.batches == {8: 3, 6: 1}
    start = from_bytes(message(dense, 32))[0].dequantised()
    assert all(np.array_equal(values, start[name]) for name, values in end.dequantised().items())


def test_the_instance_filter_can_let_nothing_pass():
    one = made("instance_filter", decision=0.999999, entropy=1.0)
    _, report, _ = trained(one)
    assert (report.batches, report.train_loss, report.steps) == ({}, None, 0) and report.filtered.seen == 30


def test_the_instance_filter_learns_from_what_it_sees_by_the_gradient_of_its_weighted_loss():
    options, keeps = made("instance_filter", keep=0.25, decision=0.01), {}
    session = options.open(keeps, np.random.default_rng(0))
    inputs, losses = (
        torch.rand(6, 1, 3, 4, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.1, 0.3, 0.1, 0.5, 0.1, 0.1]),
    )
    session.screen(inputs)
    before = [keeps[PREFIX + part].clone().requires_grad_() for part in PARTS]
    session.screen(inputs)
    guess = F.linear(F.linear(inputs.flatten(1), *before[:2]).relu(), *before[2:4]).squeeze(1).sigmoid()
    hard = (losses > 0.2).float()
    F.binary_cross_entropy(guess, hard, weight=torch.where(hard > 0, 4.0, 4 / 3)).backward()
    assert session.choose(losses).tolist() == list(range(6))
    for part, values in zip(PARTS[:4], before, strict=False):
        torch.testing.assert_close(keeps[PREFIX + part], (values - 0.1 * values.grad).detach())
    assert keeps[PREFIX + "threshold"].item() == pytest.approx(0.2 * 1.005)


def test_the_instance_filter_is_kept_and_drawn_once():
    one = client(dense, samples=made("instance_filter"))
    one.train(message(dense))
    first = one.keeps[PREFIX + "hidden.weight"]
    one.train(message(dense, round=3))
    assert one.keeps[PREFIX + "hidden.weight"] is first and one.keeps[PREFIX + "threshold"].item() != pytest.approx(0.2)


def test_inputs_are_averaged_down_to_seven_places_a_side():
    shapes = {(1, 28, 28): 49, (3, 32, 5): 105, (9, 128): 63, (30,): 30, (2, 4, 4): 32}
    for shape, count in shapes.items():
        assert averaged(torch.rand(2, *shape)).shape == (2, count) and features(shape) == count


def test_tokens_are_no_numbers_to_judge_a_sample_by():
    with pytest.raises(ScenarioError, match=r"^method\.samples: `instance_filter` judges a sample by its numbers"):
        made("instance_filter").require((32,), torch.int64)


def test_the_instance_filters_macs_are_a_hand_count():
    """12 inputs, 16 units: 192 + 16 forward, 192 + 16 weight gradients and 16 of the error, 192 + 16 + 16 + 1 updated."""
    assert made("instance_filter").macs((1, 3, 4), 10, 4, 2) == 10 * 208 + 4 * 224 + 2 * 225


@pytest.mark.parametrize(("kind", "forward", "filtered", "spared"), [
    ("loss_topk", {8: 3, 6: 1}, (30, 11, 4), Spared(0, 19, 0, 0)),
    ("random", {3: 3, 2: 1}, (30, 11, 4), Spared(19, 0, 0, 0)),
    ("instance_filter", {8: 3, 6: 1}, (30, 30, 4), Spared(0, 0, 0, 30 * 208 + 30 * 224 + 4 * 225)),
])  # fmt: skip
def test_what_is_planned_is_a_hand_count(kind, forward, filtered, spared):
    chooses = made(kind, keep=0.3)
    planned = chooses.planned({8: 3, 6: 1})
    assert planned == (forward, Filtered(**dict(zip(("seen", "trained", "steps"), filtered, strict=True))))
    assert chooses.spared(*planned, (1, 3, 4)) == spared


def test_without_a_filter_nothing_is_spared_or_reported():
    assert made("all").planned({8: 3}) == ({8: 3}, None) and made("all").spared({8: 3}, None, (3,)) == Spared()
