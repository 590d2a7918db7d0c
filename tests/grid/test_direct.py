"""A visit without messages has the outcome of one with messages, bit by bit."""

from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fedapt.grid.inline import Inline
from fedapt.grid.visit import ByMessage
from tests.grid.conftest import same_bits, scenario
from tests.grid.partial import SCHEMES, lent
from tests.grid.play import play


def clients(precision):
    return {"count": 12, "per_round": 6, "local": {"lr": 0.05, "batch": 16}, "method": {"precision": precision}}


def by_message(enrolment):
    return Inline(ByMessage(enrolment.workshop.open().app))


def same_play(wanted, **more):
    direct, rows, gateway = play(wanted, **more)
    sent, sent_rows, sent_gateway = play(wanted, by_message, **more)
    assert rows == sent_rows and same_bits(direct, sent)
    assert gateway.client_states.keys() == sent_gateway.client_states.keys()
    assert all(same_bits(gateway.client_states[client], kept) for client, kept in sent_gateway.client_states.items())
    return rows, gateway.client_states


PRECISIONS = [
    "fp32",
    "apt",
    "budget",
    {"kind": "fixed", "bits": 2, "rounding": "truncate"},
    {"kind": "qat", "bits": 5},
    {"kind": "rct"},
    {"kind": "apt", "every_batches": 2, "grid": {"granularity": "tensor", "range": "min_max"}},
]
LINKS = [
    {},
    {"send": "model"},
    {"bits": 3},
    {"bits": 4, "send": "model"},
    {"bits": 4, "error_feedback": True},
    {"down": "nearest"},
]


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    precision=st.sampled_from(PRECISIONS),
    link=st.sampled_from(LINKS),
    strategy=st.sampled_from(["fedavg", "scaffold", "fedprox", "median"]),
    epochs=st.integers(0, 2),
    schemes=st.sampled_from([None, SCHEMES, SCHEMES[:3], SCHEMES[2:3]]),
)
def test_any_method_over_any_link(precision, link, strategy, epochs, schemes):
    assume(not (link and precision == PRECISIONS[4]))
    with lent(schemes) if schemes else nullcontext():
        same_play(scenario(clients=_clients(precision, link, epochs), strategy=strategy), cohort=range(4))


def _clients(precision, link, epochs):
    base = clients(precision)
    return {**base, "local": {**base["local"], "epochs": epochs}, "method": {**base["method"], "link": link}}


@pytest.mark.parametrize("precision", ["fp32", "apt", PRECISIONS[-1]])
def test_outcomes_rows_and_models_are_the_same(precision):
    rows, kept = same_play(scenario(clients=clients(precision)))
    assert {row.status for row in rows} == {"ok"} and not kept


def test_what_clients_keep_and_compress_is_the_same():
    rows, kept = same_play(scenario(clients=_clients("fp32", LINKS[4], 1)))
    assert set(kept) == {row.client for row in rows} and all(values.any() for values in kept[rows[0].client].values())


@pytest.mark.parametrize("strategy", ["fedavg", "median"])
def test_parts_of_the_model_come_back_the_same(strategy):
    """Of clients that adapt bits within the round, and compress what they send."""
    with lent(SCHEMES):
        rows, kept = same_play(scenario(clients=_clients(PRECISIONS[-1], LINKS[4], 1), strategy=strategy), cohort=range(4))
    assert {row.status for row in rows} == {"ok"} and len({row.uplink_bytes for row in rows[:4]}) == 4
    assert kept[0].keys() == {"dense1", "dense2"} and kept[1]["conv2"].shape == (32, 16, 3, 3)


def test_a_client_that_diverges_says_the_same():
    wanted = clients("fp32")
    rows, _ = same_play(scenario(clients={**wanted, "local": {**wanted["local"], "lr": 1e30}}), rounds=1)
    assert {row.status for row in rows} == {"failed"} and rows[0].uplink_bytes == 0 < rows[0].downlink_bytes


def test_an_update_beyond_the_admitted_norm_is_charged_the_same():
    rows, _ = same_play(scenario(clients=clients("fp32"), admission={"max_norm": 1e-6}), rounds=1)
    assert {row.status for row in rows} == {"rejected"} and rows[0].energy_j > 0


def test_the_global_model_is_left_as_it_is():
    """A client trains floats in place, and they are not the server's."""
    seen = []

    def watched(enrolment):
        bench = enrolment.workshop.open()

        class Watching:
            def visit(self, arrays, task, total):
                before = {name: values.copy() for name, values in arrays.items()}
                outcome = bench.visit(arrays, task, total)
                seen.append(all(np.array_equal(before[name], values) for name, values in arrays.items()))
                return outcome

        return Inline(Watching())

    play(scenario(clients=clients("fp32")), watched, rounds=1)
    assert seen and all(seen)
