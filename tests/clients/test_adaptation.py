"""fedapt.clients.adaptation: the rule by hand, and a client that follows it within a round."""

import json
import weakref
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedapt import clients
from fedapt.clients.adaptation import Adaptation, Thresholds
from fedapt.clients.client import Client
from fedapt.clients.instructions import Instructions, TrainReport
from fedapt.clients.precision.apt import Apt
from fedapt.clients.precision.policy import Wish
from fedapt.clients.precision.rct import Rct
from fedapt.quant import GridOptions
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.wire import from_bytes
from tests.clients.conftest import client, dense, message
from tests.clients.test_precision import evidence

ALWAYS, NEVER = 1e9, 0.0


def adapting(every=1, highest=16, layers=("1", "3"), **rule):
    """Return what a client is told that adapts; the layers of `dense` are 1 and 3."""
    limits = dict(zip(layers, highest, strict=True)) if isinstance(highest, tuple) else dict.fromkeys(layers, highest)
    return Adaptation(**({"t_min": ALWAYS} | rule), every=every, highest=limits)


def trained(bits=6, **changes):
    """Return the bits and the report of a client of `dense` with 30 samples in batches of 8, four a round."""
    model, header = from_bytes(client(dense).train(message(dense, bits, **changes)))
    return model.bits, TrainReport.model_validate_json(json.dumps(header["report"]))


@pytest.mark.parametrize(("gavg", "expected"), [(0.0, 1), (1.99, 1), (2.0, 0), (8.0, 0), (8.1, -1)])
def test_the_rule_moves_a_bit_up_below_t_min_and_down_above_t_max(gavg, expected):
    assert Thresholds(t_min=2.0, t_max=8.0).change(gavg, 8, lr=0.5) == expected
    assert Thresholds(t_min=1.0, t_max=4.0, measure="step").change(gavg, 8, lr=0.5) == expected


def test_the_rule_stays_within_2_and_16_bits_and_below_the_highest():
    rule = Thresholds(t_min=2.0, t_max=8.0)
    assert rule.change(0.0, 16, 0.1) == 0 and rule.change(9.0, 2, 0.1) == 0
    told = adapting(t_min=2.0, t_max=8.0, layers=("a", "b"), highest=(7, 9))
    assert [told.bits(layer, 0.0, bits, 0.1) for layer, bits in (("a", 6), ("a", 7), ("b", 7), ("other", 4))] == [7, 7, 8, 4]
    assert told.bits("a", 9.0, 7, 0.1) == 6


@pytest.mark.parametrize(
    "wrong", [{"t_min": float("inf")}, {"t_max": float("nan")}, {"t_min": 3.0, "t_max": 2.9}, {"every": 0}, {"highest": 17}]
)
def test_an_adaptation_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        adapting(**wrong)


@pytest.mark.parametrize("policy", [Apt, Rct])
def test_an_interval_is_of_epochs_or_of_batches_and_a_policy_hands_its_rule_on(policy):
    assert policy().adaptation(10, {"a": 8}) is None
    by_epochs = policy(every_epochs=2, t_min=3.0, measure="step").adaptation(10, {"a": 8})
    assert by_epochs == Adaptation(every=20, t_min=3.0, t_max=policy().t_max, measure="step", highest={"a": 8})
    assert policy(every_batches=7).adaptation(10, {"a": 8}).every == 7
    with pytest.raises(ValidationError, match="set `every_epochs` or `every_batches`, not both"):
        policy(every_epochs=1, every_batches=7)


def test_a_wish_follows_its_clients_as_far_as_they_went_and_gavg_still_asks():
    # Gavg is 1 at 8 bits: 4.02 at 10, 8.06 at 11, so T_min 6 asks for 11 bits; a client went two bits up, so the wish does too.
    def wished(gavg, **moves):
        return Apt(every=2).adapt(Wish({"a": 8, "b": 8}), evidence({"a": gavg, "b": 6.5}, moves=moves)).bits

    assert wished(1.0) == {"a": 8, "b": 8} and wished(1.0, a=2, b=2) == {"a": 10, "b": 8}
    assert wished(1.0, a=9) == {"a": 11, "b": 8} and wished(6.5, a=9) == {"a": 8, "b": 8}


def test_a_client_raises_its_own_layers_at_each_interval_but_not_after_its_last_batch():
    assert trained(adaptation=adapting(every=1))[0] == {"1": 9, "3": 9}
    assert trained(adaptation=adapting(every=2))[0] == {"1": 7, "3": 7}
    assert trained(adaptation=adapting(every=4))[0] == trained()[0] == {"1": 6, "3": 6}
    # The interval runs across epochs: after 3, 6 and 9 batches of 12.
    assert trained(adaptation=adapting(every=3), epochs=3)[0] == {"1": 9, "3": 9}


def test_a_layer_that_was_given_a_new_grid_keeps_its_old_codes_no_longer(monkeypatch):
    decoded, alive, step = [], [], Client._step

    def decode(*args, **options):
        model, header = from_bytes(*args, **options)
        decoded.extend(weakref.ref(weight) for weight in model.weights.values())
        return model, header

    def count_and_step(self, *args, **options):
        alive.append(sum(weight() is not None for weight in decoded))
        return step(self, *args, **options)

    monkeypatch.setattr(clients.client, "from_bytes", decode)
    monkeypatch.setattr(Client, "_step", count_and_step)
    trained(adaptation=adapting(every=2))
    assert alive == [2, 2, 0, 0]


def test_a_client_lowers_layers_that_learn_with_ease():
    assert trained(8, adaptation=adapting(t_min=NEVER, t_max=1e-9, highest=8), epochs=1)[0] == {"1": 5, "3": 5}


def test_a_client_reports_what_it_trained_at_which_bits():
    bits, report = trained(adaptation=adapting(every=3, highest=(9, 6)), epochs=2)
    assert bits == {"1": 8, "3": 6} and report.batches == {8: 6, 6: 2}
    assert [(part.bits, part.batches) for part in report.segments] == [
        ([6, 6], {8: 3}),
        ([7, 6], {6: 1, 8: 2}),
        ([8, 6], {8: 1, 6: 1}),
    ]
    assert trained(epochs=2)[1].segments == [] and trained(adaptation=adapting(), epochs=0)[1].segments == []


def test_where_all_layers_keep_their_bits_adapting_each_epoch_changes_no_bit():
    def codes(**changes):
        weights = from_bytes(client(dense).train(message(dense, 6, epochs=3, **changes)))[0].weights
        return [weight.codes.tolist() for weight in weights.values()]

    assert codes() == codes(adaptation=adapting(every=4, t_min=NEVER)) != codes(adaptation=adapting(every=4))


def test_a_client_that_adapts_gives_the_same_bytes_again_whoever_trained_in_between():
    sent, one = message(dense, 6, adaptation=adapting(t_min=20.0), epochs=2), client(dense)
    first = one.train(sent)
    client(dense, rows=range(5, 25), skeleton=one.skeleton).train(message(dense, 3, client=8, lr=1.0))
    assert one.train(sent) == first == client(dense, skeleton=Skeleton(dense)).train(sent)


@given(
    st.integers(1, 5), st.tuples(st.integers(6, 16), st.integers(6, 16)), st.integers(1, 4), st.sampled_from([0.5, 6.0, ALWAYS])
)
def test_no_client_raises_a_layer_above_its_highest_and_all_its_batches_are_in_its_segments(every, highest, epochs, t_min):
    told = adapting(every=every, highest=highest, t_min=t_min, t_max=2 * t_min)
    bits, report = trained(adaptation=told, epochs=epochs)
    assert all(2 <= bits[layer] <= limit for layer, limit in told.highest.items())
    assert all(width <= limit for part in report.segments for width, limit in zip(part.bits, highest, strict=True))
    assert sum((Counter(part.batches) for part in report.segments), Counter()) == report.batches
    fields = {"seed": 0, "round": 0, "client": 0, "batch": 8, "lr": 0.1, "rounding": "truncate", "grid": GridOptions()}
    most = Instructions(**fields, epochs=epochs, adaptation=told).most_segments(30)
    assert len(report.segments) <= most == -(-4 * epochs // every)
