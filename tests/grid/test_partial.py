"""Partial updates: a client sends what it trained, and an element is averaged over the clients that trained it."""

import pickle
import re

import numpy as np
import pytest

from fedapt.clients.app import client_app
from fedapt.clients.client import Client
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.inline import Inline
from fedapt.grid.post import mean_reply, update_replies
from fedapt.grid.visit import ByMessage, Outcome
from fedapt.quant import GridOptions
from fedapt.quant.parts import Part, Slice
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.partial import INPUTS, SCHEMES, Mosaic, lent
from tests.grid.play import initial, play
from tests.strategies.rounds import METRICS

MODEL = {"a.weight": np.full((2, 3), 10.0, np.float32), "a.bias": np.full(2, 20.0, np.float32), "n": np.float32([30.0])}
COLUMN = Part({"a": Slice(1, (1,))}, frozenset())
ROW = Part({"a": Slice(0, (0,))}, frozenset({"a.bias"}))
# Weights 1, 2 and 5: the first trains the middle column, the second the first row and the bias, the third the bias alone.
UPDATES = [
    (1, COLUMN, {"a.weight": np.float32([[3.0], [3.0]])}),
    (2, ROW, {"a.weight": np.float32([[6.0, 6.0, 6.0]]), "a.bias": np.float32([1.0, 2.0])}),
    (5, Part({}, frozenset({"a.bias"})), {"a.bias": np.float32([8.0, 2.0])}),
]
MEAN = {"a.weight": [[6, (1 * 3 + 2 * 6) / 3, 6], [0, 3, 0]], "a.bias": [(2 * 1 + 5 * 8) / 7, 2], "n": [0]}


def summed(updates):
    total = ExactSum()
    for weight, part, update in updates:
        total.add(update, weight, part)
    return total


def outcomes():
    return [Outcome(number, "ok", update=update, part=part) for number, (_, part, update) in enumerate(UPDATES)]


def metrics():
    return [METRICS | {"num-examples": weight} for weight, _, _ in UPDATES]


def arrays_of(message):
    return {name: array.numpy() for name, array in next(iter(message.content.array_records.values())).items()}


def small(precision="fp32", link=None, **more):
    method = {"precision": precision, "link": link or {}}
    clients = {"count": 12, "per_round": 6, "local": {"lr": 0.05, "batch": 32}, "method": method}
    data = {"source": "digits", "samples": 300, "partition": {"kind": "dirichlet", "alpha": 0.5}}
    return scenario(clients=clients, data=data, **more)


def test_an_element_is_averaged_over_those_that_trained_it():
    total = summed(UPDATES)
    for name, values in total.mean(MODEL).items():
        np.testing.assert_allclose(values, MEAN[name], atol=2.0**-30)
    assert total.weight == 8


def test_slices_add_the_same_in_any_order_and_grouping_and_from_any_process():
    parts = [pickle.loads(pickle.dumps(summed([one]))) for one in UPDATES]  # noqa: S301 (made on this line)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    assert same_bits(parts[2].mean(MODEL), summed(UPDATES).mean(MODEL))


def test_all_of_an_array_in_slices_has_the_bits_of_the_whole_array():
    draw = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    halves = [Part({"a": Slice(1, (0, 2))}, frozenset()), Part({"a": Slice(1, (1,))}, frozenset())]
    cut = summed([(7, part, part.of_arrays({"a.weight": draw})) for part in halves])
    model = {"a.weight": MODEL["a.weight"]}
    assert same_bits(cut.mean(model), summed([(7, None, {"a.weight": draw})]).mean(model))


def test_the_memory_of_a_sum_does_not_grow_with_the_clients_of_a_part():
    total = summed(UPDATES * 50)
    assert sum(values.size for values in total.totals.values()) == 2 + 3 + 2
    assert same_bits(total.mean(MODEL), summed(UPDATES).mean(MODEL))


def test_the_mean_over_whole_replies_is_the_mean_over_those_that_trained():
    replies = [arrays_of(message) for message in update_replies(MODEL, outcomes(), metrics())]
    for name, values in MODEL.items():
        mean = sum(weight * reply[name].astype(float) for (weight, _, _), reply in zip(UPDATES, replies, strict=True)) / 8
        np.testing.assert_allclose(mean, values + MEAN[name], rtol=1e-6)
    assert replies[0]["a.weight"].tolist() == [[16, 13, 16], [10, 13, 10]] and replies[0]["n"].tolist() == [30]
    (one,) = mean_reply(MODEL, outcomes(), metrics(), summed(UPDATES))
    np.testing.assert_allclose(arrays_of(one)["a.bias"], [26, 22], rtol=1e-6)


def test_a_strategy_is_told_of_a_client_that_trained_nothing():
    nothing = Outcome(0, "ok", update={}, part=Part({}, frozenset()))
    (message,) = update_replies(MODEL, [nothing], metrics()[:1])
    assert same_bits(arrays_of(message), MODEL)


def test_a_part_survives_as_plain_data_and_is_equal_by_what_it_holds():
    for _, part, _ in UPDATES:
        again = Part.from_plain(part.plain())
        assert again == part and hash(again) == hash(part) and again is not part
    assert COLUMN != ROW


@pytest.mark.parametrize("strategy", ["fedavg", "median"])
def test_a_layer_that_one_client_trains_moves_as_if_it_were_alone(strategy):
    wanted = small(strategy=strategy)
    with lent([SCHEMES[0], SCHEMES[3]]):
        together, rows, _ = play(wanted, rounds=1, cohort=[0, 1])
        alone, _, _ = play(wanted, rounds=1, cohort=[1])
    for name in ("conv1.weight", "conv2.bias"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-6)
    assert not np.allclose(together["dense2.weight"], alone["dense2.weight"], atol=1e-5)
    assert 0 < rows[0].uplink_bytes < rows[1].uplink_bytes and rows[0].energy_radio_j < rows[1].energy_radio_j
    assert rows[1].trained_weights - rows[0].trained_weights == 16 * 9 + 32 * 16 * 9


@pytest.mark.parametrize("strategy", ["fedavg", "median"])
@pytest.mark.parametrize("precision", ["fp32", {"kind": "fixed", "bits": 4}])
def test_what_nobody_trains_does_not_change(strategy, precision):
    wanted = small(precision, strategy=strategy)
    before = initial(wanted, enrolled(wanted))
    with lent(SCHEMES[1:3]):
        after, rows, _ = play(wanted, rounds=1, cohort=[0, 1])
    assert {row.status for row in rows} == {"ok"}
    assert np.array_equal(before["conv1.weight"], after["conv1.weight"])
    moved = before["conv2.weight"] != after["conv2.weight"]
    trained = np.zeros((32, 16), bool)
    trained[:, [0, 3, 7, 15]] = trained[[1, 2, 30]] = True
    assert not moved[~trained].any() and moved[trained].any()


def test_a_lie_is_told_of_what_is_sent():
    with lent(SCHEMES):
        honest, _, _ = play(small(), rounds=1, cohort=[1])
        lied, rows, _ = play(small(faults={"sign_flip": 1.0}), rounds=1, cohort=[1])
    wanted = small()
    before = initial(wanted, enrolled(wanted))
    assert [row.status for row in rows] == ["ok"]
    for name, values in before.items():
        np.testing.assert_allclose(values - lied[name], honest[name] - values, atol=1e-6)


def test_the_length_of_a_lent_method_is_bounded_before_there_is_a_message():
    participant = enrolled(small()).participants[0]
    bits = dict.fromkeys(participant.messages.weights, 32)
    plain, longer = (participant.messages.lengths(bits, GridOptions(), 0, backward=lent)[0] for lent in (None, INPUTS))
    assert 0 < longer - plain <= INPUTS.told_bytes < 2 * len(INPUTS.model_dump_json()) + 40


def disobedient(**changes):
    """Return a transport by message to clients that are told other instructions than the server thinks."""

    def transport(enrolment):
        client_of = enrolment.workshop.clients()

        def client(context):
            one = client_of(int(context.node_config["partition-id"]))
            object.__setattr__(one, "learn", lambda model, told: Client.learn(one, model, told.model_copy(update=changes)))
            return one

        return Inline(ByMessage(client_app(client)))

    return transport


FEWER_PLACES = Mosaic(slices={"conv2": {"0": [1, 2]}, "dense2": {"0": [4]}}, still=["conv1", "dense1"])


@pytest.mark.parametrize(("backward", "bits", "sentence"), [
    (None, 32, r"conv1 came back, and the client was not asked to train it"),
    (None, 8, r"reports how layer conv1 learned, and it was not asked to train it"),
    (Mosaic(still=["conv1", "conv2", "dense1"]), 8, r"conv2 is missing from the reply"),
    (FEWER_PLACES, 8, r"conv2\.weight: expected shape \(3, 16, 3, 3\), got \(2, 16, 3, 3\)"),
])  # fmt: skip
def test_a_client_that_sends_another_part_is_rejected_in_one_sentence(backward, bits, sentence):
    wanted = small("fp32" if bits == 32 else {"kind": "fixed", "bits": bits})
    with lent([SCHEMES[2]]):
        _, (row,), _ = play(wanted, disobedient(backward=backward), rounds=1, cohort=[0])
    assert row.status == "rejected" and re.fullmatch(sentence, row.reason) and row.uplink_bytes > 0


@pytest.mark.parametrize("link", [{}, {"bits": 3}])
def test_the_predicted_time_is_that_of_the_ledger_whatever_part_is_sent(link):
    wanted = small({"kind": "fixed", "bits": 4}, link)
    with lent(SCHEMES):
        _, rows, gateway = play(wanted, rounds=1, cohort=range(4))
        for row in rows:
            participant = gateway.participants[row.client]
            plan = participant.plan(gateway.wishes.of(participant.policy, row.client))
            assert row.status == "ok" and participant.predicted_time_s(plan) == row.time_s
