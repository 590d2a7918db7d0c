import flwr.serverapp.strategy as flower
import numpy as np
import pytest

from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, flowers, step

SENT = [Sent(0, [1.0, 2.0], 1, {"train_loss": 0.5, "lr": 0.5}), Sent(1, [3.0, -2.0], 3, {"train_loss": 2.0, "lr": 0.5})]


def test_the_step_of_algorithm_2():
    """
    d, F, q, L = np.array([[1.0, 2], [3, -2]]), np.array([0.5, 2.0]), 2.0, 1 / 0.5
    h = q * F ** (q - 1) * np.square(L * d).sum(axis=1) + L * F**q      # 20.5, 216
    print((L * F[:, None] ** q * d).sum(axis=0) / h.sum())              # [24.5, -15] / 236.5
    """
    np.testing.assert_allclose(step(STRATEGIES["q_fedavg"](q=2.0), SENT), [24.5 / 236.5, -15 / 236.5], rtol=1e-6)


def test_q_of_0_is_the_mean_of_clients():
    np.testing.assert_allclose(step(STRATEGIES["q_fedavg"](q=0.0), SENT), [2.0, 0.0], atol=1e-6)


@pytest.mark.parametrize("q", [0.1, 2.0])
def test_it_agrees_with_flowers(q):
    ours = step(STRATEGIES["q_fedavg"](q=q, client_learning_rate=0.5), SENT)
    theirs = flower.QFedAvg(client_learning_rate=0.5, q=q, min_available_nodes=1, min_train_nodes=1)
    np.testing.assert_allclose(ours, flowers(theirs, {"w": np.zeros(2, np.float32)}, SENT)["w"], rtol=1e-5)


@pytest.mark.parametrize(("loss", "q"), [(3e38, 15.0), (1e-10, 40.0)])
def test_no_power_of_a_loss_is_too_large_or_too_small(loss, q):
    """With one client the loss cancels but for q |L D|^2 / F: L D / (q |L D|^2 / F + L) of L = 2, D = 1."""
    one = [Sent(0, [1.0], 1, {"train_loss": loss, "lr": 0.5})]
    np.testing.assert_allclose(step(STRATEGIES["q_fedavg"](q=q), one), [2 / (q * 4 / loss + 2)], rtol=1e-6)


def test_a_loss_of_zero_is_no_division_by_zero():
    none = [Sent(0, [1.0], 1, {"train_loss": 0.0})]
    assert np.isfinite(step(STRATEGIES["q_fedavg"](q=0.1), none)).all()
