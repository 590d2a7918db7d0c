import flwr.serverapp.strategy as flower
import numpy as np
import pytest

from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, flowers, step

SENT = [Sent(0, [1.0, 2.0], 1), Sent(1, [3.0, -2.0], 3)]
FLOWERS = {"fedadagrad": flower.FedAdagrad, "fedadam": flower.FedAdam, "fedyogi": flower.FedYogi}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fedadagrad", [0.17065069, -0.17056075]),
        ("fedadam", [0.02339069, -0.02327412]),
        ("fedyogi", [0.02335716, -0.02324086]),
    ],
)
def test_two_rounds_of_algorithm_2(name, expected):
    """
    D = np.array([2.5, -1.0])
    b1, eta = (0.0, 0.1) if name == "fedadagrad" else (0.9, 0.01)
    x, m, v = np.zeros(2), np.zeros(2), np.full(2, 1e-6)
    for _ in range(2):
        m = b1 * m + (1 - b1) * D
        if name == "fedadagrad": v = v + D**2
        elif name == "fedadam": v = 0.99 * v + 0.01 * D**2
        else: v = v - 0.01 * D**2 * np.sign(v - D**2)
        x = x + eta * m / (np.sqrt(v) + 1e-3)
    """
    np.testing.assert_allclose(step(STRATEGIES[name](), SENT, rounds=2), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["fedadagrad", "fedyogi"])
def test_flowers_differ_only_by_where_v_starts(name):
    ours = STRATEGIES[name]()
    theirs = FLOWERS[name](min_available_nodes=1, min_train_nodes=1, eta=ours.eta)
    np.testing.assert_allclose(step(ours, SENT), flowers(theirs, {"w": np.zeros(2, np.float32)}, SENT)["w"], rtol=1e-4)


def test_flowers_fedadam_takes_a_step_by_a_factor_that_algorithm_2_does_not_have():
    ours = step(STRATEGIES["fedadam"](), SENT)
    theirs = flowers(flower.FedAdam(min_available_nodes=1, min_train_nodes=1, eta=0.01), {"w": np.zeros(2, np.float32)}, SENT)[
        "w"
    ]
    # Kingma and Ba's correction would have the exponents 1 in the first step, a factor of 1.
    np.testing.assert_allclose(theirs / ours, np.sqrt(1 - 0.99**2) / (1 - 0.9**2), rtol=1e-3)
