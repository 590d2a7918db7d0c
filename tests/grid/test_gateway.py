"""The promises of the Gateway, through the strategies that users have."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedapt.grid.visit import ByMessage, down
from fedapt.models import build
from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import initial, play

OPTIONS = {"q_fedavg": {"client_learning_rate": 0.05}, "fedprox": {"proximal_mu": 0.1}, "bulyan": {"num_malicious_nodes": 0}}


def clients(precision, **local):
    return {
        "count": 12,
        "per_round": 6,
        "local": {"lr": 0.05, "batch": 16, **local},
        "method": {"precision": precision},
    }


def plain_fedavg(wanted, rounds, cohort):
    """FedAvg without fedapt's machinery: float models, torch.optim, a float64 mean; only data and draws of batches are shared."""
    enrolment = enrolled(wanted)
    federation = enrolment.workshop.federation
    local = wanted.clients.local
    state = {k: v.clone() for k, v in build(wanted.model, federation.data_shape, wanted.seed).state_dict().items()}
    for number in range(rounds):
        sums, total = {k: torch.zeros_like(v, dtype=torch.float64) for k, v in state.items()}, 0
        for client in cohort:
            rows = federation.rows[client]
            if not len(rows):
                continue
            model = build(wanted.model, federation.data_shape, 0)
            model.load_state_dict(state)
            optimiser = torch.optim.SGD(model.parameters(), lr=local.lr)
            for epoch in range(local.epochs):
                order = numpy_stream(wanted.seed, "batches", number, client, epoch).permutation(rows)
                for first in range(0, len(order), local.batch):
                    inputs, labels = federation.train.batch(order[first : first + local.batch])
                    optimiser.zero_grad()
                    F.cross_entropy(model(inputs), labels).backward()
                    optimiser.step()
            for name, values in model.state_dict().items():
                sums[name] += len(rows) * values.double()
            total += len(rows)
        state = {name: (values / total).float() for name, values in sums.items()}
    return {name: values.numpy() for name, values in state.items()}


@pytest.mark.parametrize("local", [{}, {"epochs": 2, "batch": 7}])
def test_fp32_equals_a_plain_fedavg_loop(local):
    wanted = scenario(clients=clients("fp32", **local))
    model, _, _ = play(wanted, rounds=3)
    expected = plain_fedavg(wanted, 3, range(6))
    for name, values in expected.items():
        np.testing.assert_allclose(model[name], values, rtol=1e-5, atol=2e-7, err_msg=name)


@pytest.mark.parametrize("precision", ["fp32", {"kind": "fixed", "bits": 4}, {"kind": "fixed", "bits": 2}, "apt"])
def test_zero_local_steps_leave_the_model_unchanged_to_the_last_bit(precision):
    wanted = scenario(clients=clients(precision, epochs=0))
    model, rows, _ = play(wanted, rounds=1)
    assert same_bits(model, initial(wanted, enrolled(wanted)))
    assert all(row.zero_update and row.status == "ok" for row in rows)


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum"])
def test_zero_local_steps_change_nothing_for_strategies_that_see_every_update(name):
    wanted = scenario(clients=clients({"kind": "fixed", "bits": 4}, epochs=0), strategy={"kind": name, **OPTIONS.get(name, {})})
    model, _, _ = play(wanted, rounds=1)
    for key, values in initial(wanted, enrolled(wanted)).items():
        np.testing.assert_allclose(model[key], values, rtol=2e-7, atol=0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_stock_strategy_runs_unchanged_and_moves_the_model(name):
    wanted = scenario(strategy={"kind": name, **OPTIONS.get(name, {})})
    model, rows, _ = play(wanted, rounds=2, cohort=range(12))
    before = initial(wanted, enrolled(wanted))
    assert all(np.isfinite(values).all() for values in model.values())
    assert any(not np.array_equal(model[key], before[key]) for key in before)
    assert {row.status for row in rows} == {"ok"}


@pytest.mark.parametrize("name", [name for name, options in STRATEGIES.items() if options.linear])
def test_the_one_exact_reply_gives_what_all_replies_would(name):
    # A mean of nothing but its last bit, which Adagrad takes for a direction, would be a matter of luck: this seed has none.
    wanted = scenario(seed=1, strategy={"kind": name, **OPTIONS.get(name, {})})
    one, _, _ = play(wanted, rounds=2)
    every, _, _ = play(wanted, rounds=2, linear=False)
    for key in one:
        # FedAdam and its like divide by the root of tiny second moments, which magnifies the last bits of the mean.
        np.testing.assert_allclose(
            one[key], every[key], rtol=1e-3, atol=2e-4 if name not in {"fedavg", "fedavgm", "fedprox"} else 1e-6
        )


def test_fedprox_pulls_clients_towards_the_start():
    free, _, _ = play(scenario(), rounds=1)
    wanted = scenario(strategy={"kind": "fedprox", "proximal_mu": 5.0})
    held, rows, _ = play(wanted, rounds=1)
    start = initial(wanted, enrolled(wanted))
    distance = [sum(float(np.abs(model[k] - start[k]).sum()) for k in start) for model in (free, held)]
    assert distance[1] < 0.9 * distance[0]
    _, plain, _ = play(scenario(), rounds=1)
    weights = sum(values.size for values in start.values())
    assert rows[0].memory_bytes - plain[0].memory_bytes == 4 * weights


def test_every_client_gets_its_own_draw_of_the_same_model():
    enrolment = enrolled(scenario())
    wanted = scenario()
    arrays = initial(wanted, enrolment)
    seen = []

    class Listening:
        def exchange(self, model, tasks, total):
            seen.extend(down(model, task)[0] for task in tasks)
            return iter(())

        def close(self):
            pass

    play(wanted, lambda _: Listening(), rounds=1, linear=False)
    first, second = (start.weights["conv2"].codes for start in seen[:2])
    assert first.shape == second.shape and not torch.equal(first, second)
    mean = np.mean([start.dequantised()["conv2.weight"] for start in seen], axis=0)
    scale = seen[0].weights["conv2"].grid.scale.numpy().reshape(-1, 1, 1, 1)
    assert (np.abs(mean - arrays["conv2.weight"]) < scale).all()
    one = np.abs(seen[0].dequantised()["conv2.weight"] - arrays["conv2.weight"]).mean()
    assert np.abs(mean - arrays["conv2.weight"]).mean() < 0.7 * one


def test_bytes_are_the_length_of_the_real_messages():
    wanted = scenario()
    enrolment = enrolled(wanted)
    lengths = {}

    def spying(original):
        inner = original.workshop.open().app

        def app(message, context):
            reply = inner(message, context)
            lengths[context.node_id] = tuple(len(m.content["fedapt"]["message"]) for m in (message, reply))
            return reply

        from fedapt.grid.inline import Inline

        return Inline(ByMessage(app))

    _, rows, _ = play(wanted, spying, rounds=1)
    assert lengths and {row.client: (row.downlink_bytes, row.uplink_bytes) for row in rows} == lengths
    weights = sum(shape.weights for shape in enrolment.participants[0].cost.shapes)
    floats = sum(shape.float_parameters + 2 * shape.scales for shape in enrolment.participants[0].cost.shapes)
    packed = -(-weights * 4 // 8) + 4 * floats
    for row in rows:
        assert packed < row.downlink_bytes < packed + 2500


def test_clients_of_one_federation_may_have_different_bits():
    groups = [
        {"profile": "raspberry-pi-4", "share": 0.5, "method": {"precision": {"kind": "fixed", "bits": 8}}},
        {"profile": "jetson-nano", "share": 0.5, "method": {"precision": "fp32"}},
    ]
    wanted = scenario(clients={**clients("apt"), "groups": groups})
    _, rows, _ = play(wanted, rounds=1, cohort=range(12))
    assert {(row.group, row.mean_bits) for row in rows} == {("raspberry-pi-4", 8.0), ("jetson-nano", 32.0)}


def test_apt_raises_the_wish_of_the_federation_from_six_bits():
    wanted = scenario(clients=clients("apt"))
    _, rows, _ = play(wanted, rounds=4)
    bits = {row.round: row.mean_bits for row in rows}
    assert bits[0] == 6.0 and bits[1] > 6.0 and bits[3] > bits[1]


def test_with_scope_client_only_the_own_history_counts():
    wanted = scenario(clients=clients({"kind": "apt", "scope": "client"}))
    enrolment = enrolled(wanted)
    _, _, gateway = play(wanted, rounds=3, cohort=[0, 1])
    policy = wanted.clients.groups[0].method.precision
    assert gateway.wishes.of(policy, 0).bits != enrolment.wishes.of(policy, 5).bits
    assert set(gateway.wishes.of(policy, 5).bits.values()) == {6}
