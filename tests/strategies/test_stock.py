"""Flower's strategies against their papers."""

import numpy as np
import pytest

from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, addressed, step

SENT = [Sent(0, [1.0, 2.0], 1), Sent(1, [3.0, -2.0], 3)]


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_fedavg_and_fedprox_take_the_mean_by_samples(name):
    """np.average([[1, 2], [3, -2]], axis=0, weights=[1, 3])"""
    assert step(STRATEGIES[name](), SENT).tolist() == [2.5, -1.0]


def test_fedavgm_is_momentum_sgd_on_the_mean_update():
    """
    x = v = np.zeros(2)
    for _ in range(3):
        v = 0.9 * v + np.array([2.5, -1.0])
        x = x + v
    """
    np.testing.assert_allclose(step(STRATEGIES["fedavgm"](), SENT, rounds=3), [14.025, -5.61], rtol=1e-6)
    halved = STRATEGIES["fedavgm"](server_learning_rate=0.5, server_momentum=0.0)
    np.testing.assert_allclose(step(halved, SENT, rounds=3), [3.75, -1.5], rtol=1e-6)


def test_fedprox_tells_clients_its_mu():
    options = STRATEGIES["fedprox"](proximal_mu=0.3)
    (content,) = addressed(options.build(), {"w": np.zeros(2, np.float32)}, [0]).values()
    assert content["config"]["proximal-mu"] == 0.3


@pytest.mark.parametrize("name", STRATEGIES)
def test_in_a_flower_app_sampling_is_flowers(name):
    strategy = STRATEGIES[name]().build(fraction_train=0.5, min_train_nodes=3)
    assert (strategy.fraction_train, strategy.min_train_nodes, strategy.min_available_nodes) == (0.5, 3, 1)
    assert len(addressed(strategy, {"w": np.zeros(2, np.float32)}, range(10))) == 5
