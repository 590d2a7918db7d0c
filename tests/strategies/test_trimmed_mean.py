import flwr.serverapp.strategy as flower
import numpy as np
import pytest

from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, flowers, step


def test_of_five_the_largest_and_the_smallest_are_dropped():
    """np.sort([[1, 9], [2, 8], [50, 7], [4, -60], [6, 6]], axis=0)[1:-1].mean(axis=0)"""
    rows = [[1.0, 9.0], [2.0, 8.0], [50.0, 7.0], [4.0, -60.0], [6.0, 6.0]]
    sent = [Sent(client, row) for client, row in enumerate(rows)]
    assert step(STRATEGIES["trimmed_mean"](), sent).tolist() == [4.0, 7.0]


@pytest.mark.parametrize(("beta", "clients", "ends"), [(0.2, 5, 1), (0.29, 100, 29), (0.3, 10, 3), (0.1, 9, 0), (0.49, 100, 49)])
def test_how_many_are_dropped(beta, clients, ends):
    assert STRATEGIES["trimmed_mean"](beta=beta).tolerates(clients) == ends


@pytest.mark.parametrize("beta", [0.0, 0.01, 0.1, 0.2, 0.29, 0.3, 1 / 3, 0.49])
def test_the_fewest_updates_are_those_of_which_one_is_dropped_at_each_end(beta):
    options = STRATEGIES["trimmed_mean"](beta=beta)
    assert options.tolerates(options.least_updates) == (1 if beta else 0) and options.tolerates(options.least_updates - 1) == 0


def test_however_large_beta_is_something_is_left():
    options = STRATEGIES["trimmed_mean"](beta=0.5 - 1e-10)
    assert [options.tolerates(updates) for updates in (2, 3, 4)] == [0, 1, 1] and options.least_updates == 3


@pytest.mark.parametrize("clients", [5, 9, 10])
def test_it_agrees_with_flowers(clients):
    rng = numpy_stream(0, "test")
    sent = [Sent(client, rng.normal(size=7)) for client in range(clients)]
    theirs = flower.FedTrimmedAvg(min_available_nodes=1, min_train_nodes=1)
    expected = flowers(theirs, {"w": np.zeros(7, np.float32)}, sent)["w"]
    np.testing.assert_allclose(step(STRATEGIES["trimmed_mean"](), sent), expected, rtol=1e-5, atol=1e-7)
