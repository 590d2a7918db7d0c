import numpy as np
import pytest

from fedapt.errors import RunFailed
from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, addressed, replies, step

SENT = [Sent(0, [1.0, 2.0], 1, {"staleness": 0}), Sent(1, [3.0, -2.0], 3, {"staleness": 3})]


def test_stale_updates_count_less():
    """(1 + np.array([0, 3])) ** -0.5 / 2 @ np.array([[1, 2], [3, -2]])"""
    assert step(STRATEGIES["fedbuff"](), SENT).tolist() == [1.25, 0.5]
    assert step(STRATEGIES["fedbuff"](staleness_exponent=0.0, server_learning_rate=0.5), SENT).tolist() == [1.0, 0.0]


def test_a_client_may_be_in_the_buffer_twice_and_the_order_changes_no_bit():
    options, zeros = STRATEGIES["fedbuff"](), {"w": np.zeros(2, np.float32)}
    twice = [*SENT, Sent(1, [0.1, 0.7], 3, {"staleness": 1}), Sent(0, [0.3, 0.9], 3, {"staleness": 2})]
    models = []
    for order in (twice, twice[::-1]):
        strategy = options.build()
        addressed(strategy, zeros, [0, 1])
        models.append(strategy.aggregate_train(1, replies(zeros, order))[0]["w"].numpy())
    expected = sum((1 + one.metrics["staleness"]) ** -0.5 * np.asarray(one.delta) for one in twice) / 4
    np.testing.assert_allclose(models[0], expected, rtol=1e-6)
    assert models[0].tobytes() == models[1].tobytes()


def test_a_negative_staleness_is_refused():
    with pytest.raises(RunFailed, match="client 5 states a staleness of -1"):
        step(STRATEGIES["fedbuff"](), [Sent(5, [1.0], 1, {"staleness": -1})])
