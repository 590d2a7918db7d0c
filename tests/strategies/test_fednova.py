import numpy as np
import pytest

from fedapt.errors import RunFailed
from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, addressed, step


def sent(*lrs):
    told = [{"steps": steps, "lr": lr} for steps, lr in zip((2, 5), lrs, strict=True)]
    return [Sent(0, [1.0, 2.0], 1, told[0]), Sent(1, [3.0, -2.0], 3, told[1])]


@pytest.mark.parametrize(
    ("mu", "lrs", "expected"),
    [
        (0.0, (0.5, 0.5), [2.44375, -0.2125]),
        (0.4, (0.5, 0.5), [2.40136253, -0.50046391]),
        (0.0, (0.5, 0.1), [2.96875, -1.5625]),
    ],
)
def test_updates_are_normalised_by_the_length_of_their_way(mu, lrs, expected):
    """
    d, p, K, lr = np.array([[1.0, 2], [3, -2]]), np.array([1, 3]) / 4, np.array([2, 5]), np.array(lrs)
    a = lr * K if mu == 0 else (1 - (1 - lr * mu) ** K) / mu
    print((p @ a) * ((p / a) @ d))
    """
    options = STRATEGIES["fednova"](proximal_mu=mu)
    np.testing.assert_allclose(step(options, sent(*lrs)), expected, rtol=1e-6)


def test_equal_steps_give_fedavg():
    equal = [Sent(one.client, one.delta, one.samples, {"steps": 3}) for one in sent(0.1, 0.1)]
    np.testing.assert_allclose(step(STRATEGIES["fednova"](), equal), [2.5, -1.0], rtol=1e-6)


def test_a_client_without_steps_counts_as_one_that_went_nowhere():
    """Half of the samples took 4 steps: tau_eff = 2, and the step is 2 * 0.5 * d / 4."""
    halves = [Sent(0, [4.0, 8.0], 1, {"steps": 4}), Sent(1, [0.0, 0.0], 1, {"steps": 0})]
    np.testing.assert_allclose(step(STRATEGIES["fednova"](), halves), [1.0, 2.0], rtol=1e-6)


def test_a_negative_number_of_steps_is_refused():
    with pytest.raises(RunFailed, match="client 3 says that it took -1 steps"):
        step(STRATEGIES["fednova"](), [Sent(3, [1.0], 1, {"steps": -1})])


def test_clients_are_told_mu_only_if_there_is_one():
    told = [
        next(iter(addressed(STRATEGIES["fednova"](proximal_mu=mu).build(), {"w": np.zeros(1, np.float32)}, [0]).values()))[
            "config"
        ]
        for mu in (0.0, 0.2)
    ]
    assert "proximal-mu" not in told[0] and told[1]["proximal-mu"] == 0.2
