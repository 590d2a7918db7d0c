"""fedapt.grid.wishes: whose statistics decide, and what the federation makes of them."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import PrivateAttr

from fedapt.clients.instructions import TrainReport
from fedapt.clients.precision.apt import Apt
from fedapt.clients.precision.pfq import Pfq
from fedapt.clients.precision.policy import Policy, Wish
from fedapt.grid.wishes import Observation, Wishes

BEFORE = {"a.weight": np.zeros((2, 3), np.float32), "b.weight": np.zeros((1, 2), np.float32)}
AFTER = {"a.weight": np.full((2, 3), 0.5, np.float32), "b.weight": np.array([[1.0, -2.0]], np.float32)}


class Watching(Policy):
    """Keeps the evidence that it was shown."""

    kind: str = "watching"
    _seen: list = PrivateAttr(default_factory=list)

    def start(self, layers):
        return dict.fromkeys(layers, 8)

    def adapt(self, wish: Wish, evidence) -> Wish:
        self._seen.append(evidence)
        return wish


def seen(client, policy, gavg, samples=10, loss=1.0, lr=0.1, bits=8):
    layers = {name: {"gavg": value, "underflow_share": 0.0, "clip_share": 0.0} for name, value in gavg.items()}
    report = TrainReport.model_validate({"samples": samples, "batches": {samples: 1}, "train_loss": loss, "layers": layers})
    return Observation(client, policy, lr, dict.fromkeys(gavg, bits), report)


def test_a_policy_is_shown_the_lowest_decile_the_weighted_loss_and_the_update():
    policy, wishes = Watching(), Wishes(["a", "b"])
    for client in range(10):
        wishes.observe(
            seen(client, policy, {"a": 10.0 + client}, samples=1 + client, loss=float(client), lr=0.1 * (1 + client % 2))
        )
    wishes.adapt(BEFORE, AFTER)
    (evidence,) = policy._seen
    assert evidence.gavg == {"a": 10.0} and evidence.lr == pytest.approx(0.15)
    assert evidence.train_loss == pytest.approx(sum((1 + c) * c for c in range(10)) / 55)
    assert evidence.update["b"].tolist() == [[1.0, -2.0]] and evidence.weights == {"a": 6, "b": 2}
    assert evidence.step["b"] == pytest.approx(1.5 * 2.0 / 127)


def test_statistics_of_clients_with_other_bits_count_as_if_they_had_eight():
    policy, wishes = Watching(), Wishes(["a", "b"])
    wishes.observe(seen(0, policy, {"a": 7.0}, bits=4))
    wishes.adapt(BEFORE, AFTER)
    assert policy._seen[0].gavg == {"a": pytest.approx(127.0)}


def test_the_running_mean_takes_half_of_the_newest_round():
    policy, wishes = Watching(), Wishes(["a", "b"])
    for gavg in (8.0, 16.0):
        wishes.observe(seen(0, policy, {"a": gavg}))
        wishes.adapt(BEFORE, AFTER)
    assert policy._seen[1].gavg == {"a": 12.0}


def test_clients_of_one_policy_share_a_wish_and_with_scope_client_each_has_its_own():
    shared, own, wishes = Apt(), Apt(scope="client"), Wishes(["a", "b"])
    for policy in (shared, own):
        wishes.observe(seen(0, policy, {"a": 1.0, "b": 1.0}))
    wishes.adapt(BEFORE, AFTER)
    assert wishes.of(shared, 5).bits == {"a": 7, "b": 7}
    assert (wishes.of(own, 0).bits, wishes.of(own, 5).bits) == ({"a": 7, "b": 7}, {"a": 6, "b": 6})


def test_a_policy_is_shown_by_how_many_bits_the_farthest_client_moved_each_layer():
    policy, wishes = Watching(), Wishes(["a", "b"])
    for client, moves in enumerate(({"a": 1}, {"a": 3, "b": 0}, {})):
        wishes.observe(replace(seen(client, policy, {"a": 1.0}), moves=moves))
    wishes.adapt(BEFORE, AFTER)
    assert policy._seen[0].moves == {"a": 3, "b": 0}


def test_a_discarded_round_teaches_nothing():
    policy, wishes = Pfq(), Wishes(["a", "b"])
    wishes.observe(seen(0, policy, {"a": 1.0}))
    wishes.discard()
    wishes.adapt(BEFORE, AFTER)
    assert wishes.of(policy, 0) == Wish({"a": 3, "b": 3})
