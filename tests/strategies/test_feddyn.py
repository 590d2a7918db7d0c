import numpy as np

from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, addressed, play_round

SENT = [Sent(0, [1.0, 2.0], 1), Sent(1, [3.0, -2.0], 3)]


def test_two_rounds_of_algorithm_1():
    """
    d, p, alpha = np.array([[1.0, 2], [3, -2]]), np.array([1, 3]) / 4, 0.1
    x, h_k = np.zeros(2), np.zeros((2, 2))
    for _ in range(2):
        h_k = h_k - alpha * d
        x = x + p @ d - p @ h_k / alpha
        print(x, -h_k)
    """
    strategy, model = STRATEGIES["feddyn"]().build(), {"w": np.zeros(2, np.float32)}
    for number, (expected, told) in enumerate([([5, -2], [[0.1, 0.2], [0.3, -0.2]]), ([12.5, -5], [[0.2, 0.4], [0.6, -0.4]])]):
        model = play_round(strategy, model, SENT, number=number + 1)
        np.testing.assert_allclose(model["w"], expected, rtol=1e-6)
        contents = addressed(strategy, model, [0, 1, 2])
        assert contents[0]["config"]["proximal-mu"] == 0.1 and "correction" not in contents[2]
        np.testing.assert_allclose([contents[client]["correction"]["w"].numpy() for client in (0, 1)], told, rtol=1e-6)


def test_with_the_number_of_clients_the_mean_of_h_is_the_papers():
    """m = 4, two answered: h = -alpha (d_0 + d_1) / 4 and x = (d_0 + d_1) / 2 - h / alpha = 3/4 (d_0 + d_1)."""
    strategy = STRATEGIES["feddyn"](clients=4).build()
    model = play_round(strategy, {"w": np.zeros(2, np.float32)}, [Sent(0, [1.0, 2.0]), Sent(1, [3.0, -2.0])])
    np.testing.assert_allclose(model["w"], [3.0, 0.0], atol=1e-6)
