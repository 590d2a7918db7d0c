import numpy as np

from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, step


def test_updates_are_cut_to_the_bound_and_averaged_by_samples():
    """
    d, p = np.array([[1.0, 2], [3, -2]]), np.array([1, 3]) / 4
    p @ (d * np.minimum(1, 2 / np.linalg.norm(d, axis=1))[:, None])
    """
    sent = [Sent(0, [1.0, 2.0], 1), Sent(1, [3.0, -2.0], 3)]
    np.testing.assert_allclose(step(STRATEGIES["norm_clipping"](norm_bound=2.0), sent), [1.47168224, -0.3848367], rtol=1e-6)
    np.testing.assert_allclose(step(STRATEGIES["norm_clipping"](norm_bound=4.0), sent), [2.5, -1.0], rtol=1e-6)


def test_without_a_bound_it_is_the_median_length():
    """Lengths 5, 10, 1: the second is halved, and the mean of (3, 4), (3, 4), (0, 1) is (2, 3)."""
    sent = [Sent(0, [3.0, 4.0]), Sent(1, [6.0, 8.0]), Sent(2, [0.0, 1.0])]
    np.testing.assert_allclose(step(STRATEGIES["norm_clipping"](), sent), [2.0, 3.0], rtol=1e-6)


def test_the_length_is_that_of_all_arrays_together():
    (update,) = [Sent(0, {"a": [3.0], "b": [[4.0]]})]
    moved = step(STRATEGIES["norm_clipping"](norm_bound=1.0), [update])
    np.testing.assert_allclose([moved["a"][0], moved["b"][0, 0]], [0.6, 0.8], rtol=1e-6)


def test_updates_of_nothing_are_no_division_by_zero():
    assert step(STRATEGIES["norm_clipping"](), [Sent(0, [0.0, 0.0])]).tolist() == [0.0, 0.0]
