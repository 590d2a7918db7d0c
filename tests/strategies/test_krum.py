import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.serverapp.strategy.multikrum import compute_distances

from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from fedapt.strategies.krum import krum_scores, squared_distances
from fedapt.strategies.updates import Update
from tests.strategies.rounds import Sent, flowers, play_round, record, step

ROWS = [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [9.0, 9.0]]


def updates(rows):
    return [Update(client, {"w": np.asarray(row, np.float64)}, 1, {}) for client, row in enumerate(rows)]


def test_scores_are_sums_of_squared_distances_to_the_nearest_others():
    """
    d2 = np.square(rows[:, None] - rows[None]).sum(axis=2)
    np.sort(d2, axis=1)[:, 1 : 5 - 1 - 2 + 1].sum(axis=1)
    row 0: 0 1 4 2 162; row 1: 1 0 5 1 145; row 2: 4 5 0 2 130; row 3: 2 1 2 0 128; row 4: 162 145 130 128 0
    """
    assert krum_scores(squared_distances(updates(ROWS)), 1).tolist() == [3.0, 2.0, 6.0, 3.0, 258.0]


def test_krum_takes_the_best_and_multi_krum_the_mean_of_the_best():
    """Scores 3 2 6 3 258: Krum takes row 1; of the best three (rows 0, 1, 3) the mean is (2/3, 1/3), whatever their samples."""
    sent = [Sent(client, row, 1 + client) for client, row in enumerate(ROWS)]
    assert step(STRATEGIES["krum"](), sent).tolist() == [1.0, 0.0]
    np.testing.assert_allclose(step(STRATEGIES["multi_krum"](num_nodes_to_select=3), sent), [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(step(STRATEGIES["multi_krum"](), sent), [0.5, 0.75], rtol=1e-6)


def test_it_agrees_with_flowers_where_updates_are_as_large_as_the_model():
    rng = numpy_stream(0, "test")
    sent = [Sent(client, rng.normal(size=20)) for client in range(9)]
    zeros = {"w": np.zeros(20, np.float32)}
    theirs = flowers(flower.Krum(num_malicious_nodes=2, min_available_nodes=1, min_train_nodes=1), zeros, sent)["w"]
    np.testing.assert_allclose(step(STRATEGIES["krum"](num_malicious_nodes=2), sent), theirs, rtol=1e-6)


def test_flowers_distances_of_small_updates_to_a_large_model_are_rounding_errors():
    """The true squared distances are 2 * 1e-3^2 * (number of places that differ), none negative."""
    rng = numpy_stream(2, "test")
    base = np.asarray(100 * rng.normal(size=1000), np.float32)
    models = [(base + 0.001 * rng.normal(size=1000)).astype(np.float32) for _ in range(6)]
    exact = np.array([[np.square(a.astype(np.float64) - b).sum() for b in models] for a in models])
    theirs = compute_distances([record({"w": model}) for model in models])
    ours = squared_distances(updates([model.astype(np.float64) - base for model in models]))
    np.testing.assert_allclose(ours, exact, rtol=1e-9)
    off_diagonal = ~np.eye(6, dtype=bool)
    assert (theirs < 0).any() and (np.abs(theirs - exact)[off_diagonal] > 10 * exact[off_diagonal]).mean() > 0.5


@pytest.mark.parametrize("name", ["krum", "multi_krum"])
def test_flower_applies_the_rule_to_too_few_and_we_do_not(name):
    sent = [Sent(client, row) for client, row in enumerate(ROWS)]
    zeros = {"w": np.zeros(2, np.float32)}
    theirs = flower.Krum(num_malicious_nodes=2, min_available_nodes=1, min_train_nodes=1)
    assert flowers(theirs, zeros, sent) is not None
    assert play_round(STRATEGIES[name](num_malicious_nodes=2).build(), zeros, sent) is None


@pytest.mark.parametrize(("selected", "least"), [(None, 7), (3, 7), (6, 8)])
def test_multi_krum_needs_f_more_than_it_selects(selected, least):
    assert STRATEGIES["multi_krum"](num_malicious_nodes=2, num_nodes_to_select=selected).least_updates == least
