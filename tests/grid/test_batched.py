"""Clients that are trained together end as they would alone, but for the last digits, and say so."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedapt.clients.stacked import Stack, _Vmapped, is_dense, is_stackable, step_of
from fedapt.engines import device_of
from fedapt.errors import SetupError
from fedapt.grid.chunks import Chunks, Pace
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.inline import Inline
from fedapt.grid.ray_pool import RayPool
from fedapt.scenario import Engine
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import initial, play

MLP = {"kind": "mlp", "hidden": [16]}
METHOD = {"precision": "fp32"}


def wanted(local=None, method=None, **more):
    local = {"lr": 0.05, "batch": 16, "epochs": 2} | (local or {})
    clients = {"count": 12, "per_round": 6, "local": local, "method": METHOD | (method or {})}
    return scenario(clients=clients, **more)


def together(size=4):
    return lambda enrolment: Inline(enrolment.workshop.open(), grouping=enrolment.workshop.grouping(size))


def tasks_of(of):
    """Return the tasks of the first round, and what groups them."""
    seen = []

    def watch(tasks):
        seen.extend(tasks)
        return [[task] for task in tasks]

    play(of, lambda enrolment: Inline(enrolment.workshop.open(), grouping=watch), rounds=1)
    return seen, enrolled(of).workshop


@pytest.mark.parametrize("model", [MLP, {"kind": "mlp", "hidden": []}, "cnn"])
@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "scaffold", "median"])
def test_two_rounds_together_end_as_alone(model, strategy):
    """Clients have 42 to 222 samples, so they take unequal numbers of steps, and their last batches are short."""
    of = wanted(model=model, strategy=strategy)
    alone, rows, _ = play(of)
    batched, other, _ = play(of, together())
    for name, values in alone.items():
        np.testing.assert_allclose(batched[name], values, rtol=1e-4, atol=1e-6 * np.abs(values).max())
    assert [row.batched_clients for row in other] == [3] * 12
    for row, one in zip(rows, other, strict=True):
        assert one.train_loss == pytest.approx(row.train_loss, rel=1e-5)
        assert replace(one, train_loss=row.train_loss, batched_clients=0) == row


def test_clients_may_have_epochs_and_rates_of_their_own():
    groups = [
        {"profile": "raspberry-pi-4", "local": {"lr": 0.1}},
        {"profile": "raspberry-pi-zero-2", "local": {"epochs": 1}},
    ]
    of = scenario(
        model=MLP,
        clients={"count": 12, "per_round": 6, "groups": groups, "local": {"batch": 16, "epochs": 2}, "method": METHOD},
    )
    alone, _, _ = play(of)
    batched, rows, _ = play(of, together(8))
    assert {row.batched_clients for row in rows} == {6} and {row.steps for row in rows} == {6, 10, 14}
    assert all(np.allclose(batched[name], alone[name], rtol=1e-4, atol=1e-7) for name in alone)


def test_the_sum_of_a_group_is_the_mean_of_its_updates():
    of = wanted(model=MLP)
    summed, _, _ = play(of, together(), rounds=1)
    seen = []
    play(of, together(), rounds=1, linear=False, strategy=replaced_by_mean(of), on_outcome=seen.append)
    weights = [outcome.report.samples for outcome in seen]
    start = initial(of, enrolled(of))
    for name, values in summed.items():
        mean = np.average([outcome.update[name].astype(np.float64) for outcome in seen], axis=0, weights=weights)
        np.testing.assert_allclose(values, (start[name] + mean).astype(np.float32), rtol=1e-6, atol=1e-7)


def replaced_by_mean(of):
    return scenario(strategy="median", clients=of.clients.model_dump()).strategy.build()


def test_groups_depend_on_the_tasks_alone_and_stay_whole_in_any_chunk():
    tasks, workshop = tasks_of(wanted(model=MLP))
    groups = workshop.grouping(4)(tasks)
    assert [[task.samples for task in group] for group in groups] == [[222, 149, 112], [80, 72, 42]]
    for size in (None, 1, 2, 5):
        chunks, taken = Chunks(groups, Pace(size)), []
        while chunks:
            taken += chunks.take(workers=3)
        assert taken == groups


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"precision": {"kind": "qat", "bits": 4}}},
        {"method": {"precision": {"kind": "fixed", "bits": 8}}},
        {"method": {"link": {"bits": 4}}},
        {"method": {"link": {"send": "model"}}},
        {"method": {"activations": 8}},
        {"local": {"epochs": 0}},
        {"faults": {"nan": 0.01}},
        {"model": "resnet20"},
    ],
)
def test_what_is_no_plain_training_in_floats_is_alone(changes):
    tasks, workshop = tasks_of(wanted(**{"model": MLP, **changes}))
    assert {len(group) for group in workshop.grouping(4)(tasks)} == {1}


def test_by_itself_a_cpu_trains_dense_models_together_and_a_gpu_convolutions_too():
    tasks, workshop = tasks_of(wanted(model=MLP))
    assert [len(group) for group in workshop.grouping(None)(tasks)] == [6]
    tasks, workshop = tasks_of(wanted(model="cnn"))
    assert [len(group) for group in workshop.grouping(None)(tasks)] == [1] * 6
    assert [len(group) for group in replace(workshop, device="cuda").grouping(None)(tasks)] == [6]


def test_a_client_that_diverges_says_what_it_says_alone():
    groups = [{"profile": "raspberry-pi-4"}, {"profile": "raspberry-pi-zero-2", "local": {"lr": 1e30}}]
    local = {"lr": 0.05, "batch": 16}
    of = scenario(model=MLP, clients={"count": 12, "per_round": 6, "groups": groups, "local": local, "method": METHOD})
    _, rows, _ = play(of, rounds=1)
    model, other, _ = play(of, together(8), rounds=1)
    assert {(row.status, row.batched_clients) for row in other} == {("ok", 6), ("failed", 0)}
    assert [row for row in rows if row.status == "failed"] == [row for row in other if row.status == "failed"]
    assert all(np.isfinite(values).all() for values in model.values())


def test_an_update_beyond_the_admitted_norm_is_rejected_as_alone():
    of = wanted(model=MLP, admission={"max_norm": 1e-6})
    assert play(of, together(), rounds=1)[1] == play(of, rounds=1)[1]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("workers", "chunk"), [(2, None), (2, 1), (1, 100)])
def test_ray_gives_the_bits_of_inline(workers, chunk):
    of = wanted(model=MLP)
    model, rows, _ = play(of, together())

    def pool(enrolment):
        return RayPool(enrolment.workshop, workers, chunk=chunk, grouping=enrolment.workshop.grouping(4))

    other, pooled, _ = play(of, pool)
    assert same_bits(model, other) and rows == pooled


def test_the_dense_step_is_that_of_autograd():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    inputs, labels, shares = torch.randn(3, 4, 2, 6), torch.randint(0, 3, (3, 4)), torch.rand(3, 4)
    ends = []
    for step in (step_of(model), _Vmapped(model)):
        values = {name: torch.stack([p.detach() + c for c in range(4)]) for name, p in model.named_parameters()}
        starts = {name: p.detach() + 1 for name, p in model.named_parameters()}
        corrections = {name: torch.ones_like(stacked) for name, stacked in values.items()}
        losses = step(
            Stack(values, starts, torch.rand(4, generator=torch.manual_seed(1)), 0.1, corrections), inputs, labels, shares
        )
        ends.append({**values, "losses": losses})
    for name, end in ends[0].items():
        torch.testing.assert_close(end, ends[1][name], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(ends[0][name][3], p.detach() + 3) for name, p in model.named_parameters())


def test_layers_with_buffers_or_randomness_cannot_be_stacked():
    tied = nn.Linear(3, 3)
    assert is_stackable(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(8, 2)))
    for layer in (nn.Dropout(), nn.BatchNorm1d(3), nn.GRU(3, 3), nn.Embedding(3, 3), nn.Sequential(tied, nn.ReLU(), tied)):
        assert not is_stackable(nn.Sequential(nn.Flatten(), layer))
    assert not is_dense(nn.Sequential(nn.Flatten(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)))


@settings(max_examples=50)
@given(st.integers(1, 70), st.integers(1, 5000), st.randoms(use_true_random=False))
def test_added_at_once_is_added_one_by_one_bit_by_bit(clients, numbers, random):
    draw = np.random.default_rng(random.getrandbits(32))
    stacked = {
        "w": draw.normal(size=(clients, numbers)).astype(np.float32),
        "b": draw.normal(size=(clients, 1)).astype(np.float32),
    }
    weights = draw.integers(1, 50_000, clients).tolist()
    one_by_one, at_once = ExactSum(), ExactSum()
    for place, weight in enumerate(weights):
        one_by_one.add({name: values[place] for name, values in stacked.items()}, weight)
    at_once.add_stacked(stacked, weights)
    assert same_bits(at_once.totals, one_by_one.totals)
    assert (at_once.weight, at_once.terms) == (one_by_one.weight, one_by_one.terms)


def test_the_largest_terms_of_many_clients_are_added_exactly():
    """65 terms just below 2**48 have a sum that float64 does not hold."""
    largest = np.nextafter(np.float32(2.0**18), np.float32(0))
    stacked = np.full((65, 1), largest)
    stacked[1:, 0] -= np.arange(64, dtype=np.float32)
    total = ExactSum()
    total.add_stacked({"w": stacked}, [1] * 65)
    assert int(total.totals["w", None][0]) == sum(int(float(value) * 2**30) for value in stacked[:, 0])


def test_updates_that_cannot_be_added_exactly_are_named():
    stacked = {
        "w": np.float32([[1.0, -2.0], [np.nan, 0], [0, -(2.0**18)], [2.0**17, 0]]),
        "b": np.float32([[0]] * 3 + [[np.inf]]),
    }
    assert ExactSum.too_large(stacked, [1, 1, 1, 1]).tolist() == [False, True, True, True]
    assert ExactSum.too_large({"w": stacked["w"][[0, 3]]}, [2**16, 1]).tolist() == [False, False]


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SetupError, match=r"^engine\.device cuda: torch sees no GPU here; "):
        device_of(Engine(device="cuda", batch_clients="auto"))
    assert device_of(Engine(device="auto", batch_clients="auto")) == "cpu"
