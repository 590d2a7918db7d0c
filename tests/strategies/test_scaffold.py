import numpy as np
import pytest

from fedapt.errors import RunFailed
from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, addressed, play_round, reply

TOLD = [{"steps": 2, "lr": 0.5}, {"steps": 5, "lr": 0.5}]
SENT = [Sent(0, [1.0, 2.0], 1, TOLD[0]), Sent(1, [3.0, -2.0], 3, TOLD[1])]
ZEROS = {"w": np.zeros(2, np.float32)}


def corrections(strategy, model, clients):
    told = addressed(strategy, model, clients)
    return {client: content["correction"]["w"].numpy() for client, content in told.items() if "correction" in content}


def test_two_rounds_of_option_two():
    """
    d, n, K, lr = np.array([[1.0, 2], [3, -2]]), np.array([1, 3]), np.array([[2], [5]]), 0.5
    p, x, c, c_i = n / n.sum(), np.zeros(2), np.zeros(2), np.zeros((2, 2))
    for _ in range(2):
        c_i = c_i - c - d / (K * lr)
        c = p @ c_i
        x = x + p @ d
        print(x, c_i, c - c_i)
    """
    strategy = STRATEGIES["scaffold"]().build()
    model = play_round(strategy, ZEROS, SENT)
    assert model["w"].tolist() == [2.5, -1.0]
    told = corrections(strategy, model, [0, 1, 2])
    np.testing.assert_allclose([told[0], told[1]], [[-0.15, 2.1], [0.05, -0.7]], rtol=1e-6)
    assert 2 not in told
    model = play_round(strategy, model, SENT, number=2)
    assert model["w"].tolist() == [5.0, -2.0]
    told = corrections(strategy, model, [0, 1])
    np.testing.assert_allclose([told[0], told[1]], [[-0.3, 4.2], [0.1, -1.4]], rtol=1e-6)


def test_with_the_number_of_clients_the_means_are_the_papers():
    """Option II with 4 clients of which two answered: c = (c_0 + c_1) / 4, and those that did not answer are corrected by c."""
    equal = [Sent(one.client, one.delta, 2, one.metrics) for one in SENT]
    strategy = STRATEGIES["scaffold"](clients=4, server_learning_rate=0.5).build()
    model = play_round(strategy, ZEROS, equal)
    assert model["w"].tolist() == [1.0, 0.0]
    told = corrections(strategy, model, range(4))
    np.testing.assert_allclose(told[3], [(-1.0 - 1.2) / 4, (-2.0 + 0.8) / 4], rtol=1e-6)
    np.testing.assert_allclose(np.sum(list(told.values()), axis=0), 0, atol=1e-6)


def test_a_client_that_took_no_step_keeps_its_variate():
    strategy = STRATEGIES["scaffold"]().build()
    model = play_round(strategy, ZEROS, SENT)
    before = corrections(strategy, model, [0, 1])
    idle = [Sent(one.client, [0.0, 0.0], one.samples, {"steps": 0}) for one in SENT]
    after = corrections(strategy, play_round(strategy, model, idle, number=2), [0, 1])
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])


@pytest.mark.parametrize(("name", "metric"), [("scaffold", "steps"), ("fednova", "steps"), ("q_fedavg", "train_loss")])
def test_a_metric_that_is_missing_is_named(name, metric):
    strategy = STRATEGIES[name]().build()
    addressed(strategy, ZEROS, [4])
    with pytest.raises(
        RunFailed, match=rf"^{name} needs the metric `{metric}` in every reply, and client 4 sent only num-examples:"
    ):
        strategy.aggregate_train(1, [reply(4, ZEROS, {"num-examples": 3})])
    assert strategy.state_dict() == {}
