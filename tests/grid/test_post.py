"""fedapt.grid.post: what a strategy sends and what it sees."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedapt.clients.link import Link
from fedapt.errors import RunFailed
from fedapt.grid.flower import EVALUATE, TRAIN, instruction
from fedapt.grid.inline import Inline
from fedapt.grid.post import broadcasts
from fedapt.grid.visit import ByMessage
from fedapt.strategies import STRATEGIES
from tests.grid.conftest import enrolled, same_bits, scenario
from tests.grid.play import initial, play

METRICS = {"num-examples", "train_loss", "steps", "lr", "mean_bits", "update_variance", "relative_error", "staleness"}


def record(value, shape=(2, 3)):
    return ArrayRecord({"fc.weight": Array(np.full(shape, value, np.float32))})


def sent(client, model, kind=TRAIN, correction=None, **config):
    content = RecordDict({"arrays": model, "config": ConfigRecord(config)})
    if correction is not None:
        content["correction"] = correction
    return instruction(content, kind, client)


def test_messages_with_equal_models_are_one_broadcast_in_the_order_of_the_clients():
    model = record(1.0)
    groups = list(broadcasts([sent(3, model), sent(1, record(1.0)), sent(2, record(2.0)), sent(0, model, EVALUATE)]))
    assert [(kind, [order.client for order in orders]) for _, kind, orders in groups] == [
        (TRAIN, [1, 3]),
        (TRAIN, [2]),
        (EVALUATE, [0]),
    ]
    assert groups[0][0]["fc.weight"].tolist() == [[1.0] * 3] * 2


def test_each_client_has_its_own_pull_and_correction():
    model = record(1.0)
    content = [
        sent(0, model, **{"proximal-mu": 0.5}),
        sent(1, model, correction=record(0.1)),
        sent(2, model, correction=record(0.2)),
    ]
    ((_, _, orders),) = broadcasts(content)
    assert [order.proximal_mu for order in orders] == [0.5, 0.0, 0.0]
    assert orders[0].correction is None
    assert [float(order.correction["fc.weight"][0, 0]) for order in orders[1:]] == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(("correction", "sentence"), [
    (record(0.0, (3, 2)), r"for client 4 does not fit its model: fc\.weight has shape \(3, 2\), and in the model \(2, 3\)"),
    (ArrayRecord({"x": Array(np.ones(1, np.float32))}), r"fc\.weight has shape none, and in the model \(2, 3\)"),
    (record(np.nan), r"correction for client 4 is not finite in fc\.weight"),
])  # fmt: skip
def test_a_correction_that_does_not_fit_is_the_strategys_mistake(correction, sentence):
    with pytest.raises(RunFailed, match=sentence):
        list(broadcasts([sent(4, record(1.0), correction=correction)]))


class Corrected:
    """A strategy that corrects every client's gradients by its own constant; `seen` holds the replies."""

    def __init__(self, inner, correction_of):
        self._inner, self._correction_of, self.seen = inner, correction_of, []

    def configure_train(self, number, arrays, config, grid):
        for message in self._inner.configure_train(number, arrays, config, grid):
            client = message.metadata.dst_node_id
            correction = {name: Array(self._correction_of(client, array.numpy())) for name, array in arrays.items()}
            content = RecordDict({"arrays": arrays, "config": ConfigRecord({}), "correction": ArrayRecord(correction)})
            yield instruction(content, TRAIN, client)

    def aggregate_train(self, number, replies):
        self.seen += replies
        return self._inner.aggregate_train(number, replies)


def corrected(correction_of, **changes):
    wanted = scenario(**changes)
    strategy = Corrected(wanted.strategy.build(), correction_of)
    return play(wanted, rounds=1, strategy=strategy, linear=False), strategy.seen


def shifted(value):
    return lambda client, values: np.full_like(values, value)


def one_step(precision="fp32"):
    """Return clients that take exactly one step of lr 0.05 in a round."""
    return {"count": 12, "per_round": 6, "local": {"lr": 0.05, "batch": 1000}, "method": {"precision": precision}}


def test_a_correction_moves_every_parameter_of_a_float_client_by_lr_times_itself():
    plain, _, _ = play(scenario(clients=one_step()), rounds=1, linear=False)
    (model, _, _), _ = corrected(shifted(0.5), clients=one_step())
    for name, values in plain.items():
        np.testing.assert_allclose(model[name] - values, -0.025, atol=1e-6, err_msg=name)


def test_a_correction_moves_codes_by_lr_times_itself_on_average():
    clients = one_step({"kind": "fixed", "bits": 8})
    plain, _, _ = play(scenario(clients=clients), rounds=1, linear=False)
    (model, _, _), _ = corrected(shifted(0.5), clients=clients)
    assert (model["dense1.weight"] - plain["dense1.weight"]).mean() == pytest.approx(-0.025, rel=0.02)


def test_no_correction_is_as_good_as_one_of_zeros_and_each_float_of_it_is_charged():
    plain, before, _ = play(scenario(), rounds=1, linear=False)
    (model, rows, _), _ = corrected(shifted(0.0))
    assert same_bits(model, plain)
    floats = sum(values.size for values in model.values())
    for row, cheaper in zip(rows, before, strict=True):
        assert row.memory_bytes - cheaper.memory_bytes == 4 * floats
        assert 4 * floats < row.downlink_bytes - cheaper.downlink_bytes < 4 * floats + 1200
        assert (row.uplink_bytes, row.energy_compute_j) == (cheaper.uplink_bytes, cheaper.energy_compute_j)


def replies_of(linear, **changes):
    wanted = scenario(**changes)
    strategy = Corrected(wanted.strategy.build(), shifted(0.0))
    _, rows, _ = play(wanted, rounds=1, strategy=strategy, linear=linear)
    return [dict(reply.content.metric_records["metrics"]) for reply in strategy.seen], rows


def test_every_reply_says_what_a_strategy_may_weigh_by():
    told, rows = replies_of(False)
    assert all(set(one) == METRICS for one in told)
    assert [(one["num-examples"], one["steps"], one["lr"], one["mean_bits"], one["staleness"]) for one in told] == [
        (row.samples, row.steps, 0.05, 4.0, 0) for row in rows
    ]
    assert all(one["update_variance"] > 0 and one["relative_error"] > 0 for one in told)
    exact, _ = replies_of(False, clients=one_step())
    assert all(one["update_variance"] == one["relative_error"] == 0.0 and one["mean_bits"] == 32.0 for one in exact)


def test_the_one_reply_of_a_linear_strategy_has_the_same_names_and_the_variance_of_the_mean():
    each, _ = replies_of(False)
    (told,), _ = replies_of(True)
    total = sum(one["num-examples"] for one in each)
    assert set(told) == METRICS and told["num-examples"] == total and told["steps"] == sum(one["steps"] for one in each)
    expected = sum((one["num-examples"] / total) ** 2 * one["update_variance"] for one in each)
    assert told["update_variance"] == pytest.approx(expected, rel=1e-12)


def linked(precision, epochs=1, **link):
    return {
        "count": 12,
        "per_round": 6,
        "local": {"lr": 0.05, "batch": 16, "epochs": epochs},
        "method": {"precision": precision, "link": link},
    }


FOUR = {"kind": "fixed", "bits": 4}


@pytest.mark.parametrize("link", [{"bits": 2}, {"down": "nearest"}, {"bits": 3, "error_feedback": True, "rounding": "nearest"}])
def test_zero_steps_change_nothing_where_a_delta_is_sent(link):
    wanted = scenario(clients=linked(FOUR, epochs=0, **link))
    assert same_bits(play(wanted, rounds=1)[0], initial(wanted, enrolled(wanted)))


@pytest.mark.parametrize("link", [{}, {"down": "nearest"}, {"bits": 6}])
def test_a_model_upload_brings_the_error_of_the_download_into_the_model_even_without_a_step(link):
    wanted = scenario(clients=linked(FOUR, epochs=0, send="model", **link))
    model, rows, _ = play(wanted, rounds=1)
    before = initial(wanted, enrolled(wanted))
    off = np.abs(model["dense1.weight"] - before["dense1.weight"]).mean()
    assert off > 0 and np.array_equal(model["dense1.bias"], before["dense1.bias"]) and {row.status for row in rows} == {"ok"}


def test_downloads_to_nearest_are_the_same_for_all_and_so_is_their_error():
    errors = {}
    for down in ("nearest", "stochastic"):
        wanted = scenario(clients=linked(FOUR, epochs=0, send="model", down=down))
        before = initial(wanted, enrolled(wanted))["dense1.weight"]
        errors[down] = np.square(play(wanted, rounds=1)[0]["dense1.weight"] - before).mean()
    # One rounding to nearest has half the square error of a stochastic one, but six of these average out.
    assert errors["nearest"] > 2 * errors["stochastic"]


def test_uplink_bytes_are_those_of_the_compressed_message():
    wide, narrow = (play(scenario(clients=linked("fp32", bits=bits)), rounds=1)[1] for bits in (8, 2))
    weights = sum(shape.weights for shape in enrolled(scenario()).participants[0].cost.shapes)
    for row, shorter in zip(wide, narrow, strict=True):
        # Six bits less a weight; the offsets in the header may have a digit less.
        assert row.uplink_bytes - shorter.uplink_bytes == pytest.approx(weights * 6 / 8, abs=64)
        assert row.downlink_bytes == shorter.downlink_bytes > 4 * weights


@pytest.mark.parametrize(
    ("link", "floats"), [({"bits": 8}, 1), ({"bits": 8, "error_feedback": True}, 2), ({"bits": 8, "send": "model"}, 0)]
)
def test_what_a_link_keeps_in_float_is_charged(link, floats):
    plain, more = (play(scenario(clients=linked(FOUR, **some)), rounds=1)[1] for some in ({}, link))
    weights = sum(shape.weights for shape in enrolled(scenario()).participants[0].cost.shapes)
    assert [row.memory_bytes - cheaper.memory_bytes for row, cheaper in zip(more, plain, strict=True)] == [
        4 * weights * floats
    ] * 6


def test_compressed_deltas_of_few_bits_still_add_up_to_the_update():
    exact, rough = (play(scenario(clients=linked("fp32", **link)), rounds=1)[0] for link in ({}, {"bits": 8}))
    before = initial(scenario(), enrolled(scenario()))
    for name in exact:
        off, moved = (np.abs(values - exact[name]).max() for values in (rough[name], before[name]))
        assert off <= 0.02 * moved, name


def test_a_client_that_is_asked_to_compress_says_its_error_to_the_strategy():
    told, _ = replies_of(False, clients=linked("fp32", bits=2))
    assert all(0 < one["relative_error"] < 20 and one["update_variance"] > 0 for one in told)
    finer, _ = replies_of(False, clients=linked("fp32", bits=8))
    assert all(fine["relative_error"] < 0.01 * rough["relative_error"] for fine, rough in zip(finer, told, strict=True))


EF = {"bits": 2, "rounding": "nearest", "error_feedback": True}


def test_what_error_feedback_keeps_is_kept_by_the_gateway_and_makes_a_difference():
    wanted = scenario(clients=linked("fp32", **EF))
    model, _, gateway = play(wanted, rounds=2)
    assert set(gateway.client_states) == set(range(6))
    assert {name: values.shape for name, values in gateway.client_states[0].items()} == {
        name.removesuffix(".weight"): values.shape for name, values in model.items() if values.ndim > 1
    }
    forgetful, _, _ = play(scenario(clients=linked("fp32", **EF | {"error_feedback": False})), rounds=2)
    assert not same_bits(model, forgetful)


def test_a_failed_round_leaves_what_a_client_keeps_as_it_was():
    """Client 2 raises after its training in the second round: on a board its state would not have been stored either."""

    def failing(enrolment):
        inner, times = enrolment.workshop.open().app, []

        def app(message, context):
            reply = inner(message, context)
            times.append(context.node_id)
            if times.count(2) == 2 and context.node_id == 2:
                raise ValueError("broken")
            return reply

        return Inline(ByMessage(app))

    wanted = scenario(clients=linked("fp32", **EF))
    _, rows, broken = play(wanted, failing, rounds=2)
    _, _, once = play(wanted, rounds=1)
    assert [row.status for row in rows if row.client == 2] == ["ok", "failed"]
    assert same_bits(broken.client_states[2], once.client_states[2])
    assert not same_bits(broken.client_states[1], once.client_states[1])


@pytest.mark.parametrize("link", [{"bits": 4}, {"bits": 4, "send": "model"}, {"send": "model"}])
def test_liars_turn_what_they_compress_and_are_rejected_by_their_norm_alone(link):
    faults = {"scale": {"share": 0.3, "factor": 1e5}}
    _, rows, _ = play(scenario(clients=linked("fp32", **link), faults=faults, admission={"max_norm": 100.0}), rounds=1)
    assert {row.status for row in rows} == {"ok", "rejected"}
    assert all("beyond admission.max_norm" in row.reason for row in rows if row.status == "rejected")


def test_there_is_a_strategy_that_corrects():
    assert [name for name, options in STRATEGIES.items() if options.corrects]


def test_the_default_link_is_lossless_and_unbiased():
    assert Link() == Link(down="stochastic", send="delta", bits=None, rounding="stochastic", error_feedback=False)
