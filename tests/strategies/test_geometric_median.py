import logging

import numpy as np

from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from fedapt.strategies.geometric_median import weiszfeld
from tests.strategies.rounds import Sent, step


def test_of_four_corners_it_is_where_the_diagonals_cross():
    """
    (0, 0)-(10, 10) and (4, 0)-(0, 3) cross where x / 4 + x / 3 = 1. So says a simplex search too:
    scipy.optimize.minimize(lambda z: np.linalg.norm(rows - z, axis=1).sum(), [1, 1.2], method="Nelder-Mead")
    """
    rows = [[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [10.0, 10.0]]
    sent = [Sent(client, row, 1 + client) for client, row in enumerate(rows)]
    np.testing.assert_allclose(step(STRATEGIES["geometric_median"](), sent), [12 / 7, 12 / 7], atol=1e-4)


def test_where_one_update_lies_in_the_middle_it_is_that():
    rows = [[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [10.0, 10.0], [1.0, 1.0]]
    sent = [Sent(client, row) for client, row in enumerate(rows)]
    np.testing.assert_allclose(step(STRATEGIES["geometric_median"](), sent), [1.0, 1.0], atol=1e-4)


def test_with_samples_as_weights_a_majority_decides():
    sent = [Sent(0, [0.0, 0.0], 1), Sent(1, [2.0, 0.0], 1), Sent(2, [5.0, 5.0], 9)]
    np.testing.assert_allclose(step(STRATEGIES["geometric_median"](weighted=True), sent), [5.0, 5.0], atol=1e-4)


def test_it_is_a_minimum_to_within_the_tolerance():
    """At the minimum the unit vectors towards the updates cancel out."""
    rows = numpy_stream(0, "test").normal(size=(15, 30))
    point, fall = weiszfeld(rows, np.full(15, 1 / 15), 1e-6, 1e-12, 1000)
    units = (rows - point) / np.linalg.norm(rows - point, axis=1, keepdims=True)
    assert np.linalg.norm(units.mean(axis=0)) < 1e-4 and fall <= 1e-12


def test_that_it_did_not_converge_is_said(caplog):
    rows = numpy_stream(0, "test").normal(size=(9, 5))
    sent = [Sent(client, row) for client, row in enumerate(rows)]
    with caplog.at_level(logging.WARNING, "fedapt"):
        step(STRATEGIES["geometric_median"](max_iterations=1, tolerance=1e-12), sent)
        assert len(caplog.messages) == 1 and caplog.messages[0].startswith("geometric_median stops after 1 iterations")
        step(STRATEGIES["geometric_median"](), sent)
        assert len(caplog.messages) == 1
