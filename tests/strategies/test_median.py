import flwr.serverapp.strategy as flower
import numpy as np

from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, flowers, step


def test_the_median_of_each_weight_whatever_the_samples():
    """np.median([[1, 9], [2, 8], [50, 7], [4, -60]], axis=0)"""
    rows = [[1.0, 9.0], [2.0, 8.0], [50.0, 7.0], [4.0, -60.0]]
    sent = [Sent(client, row, 1 + 100 * client) for client, row in enumerate(rows)]
    assert step(STRATEGIES["median"](), sent).tolist() == [3.0, 7.5]


def test_it_agrees_with_flowers():
    rng = numpy_stream(0, "test")
    for clients in (5, 6):
        sent = [Sent(client, {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4)}) for client in range(clients)]
        zeros = {name: np.zeros_like(values) for name, values in sent[0].arrays().items()}
        theirs = flowers(flower.FedMedian(min_available_nodes=1, min_train_nodes=1), zeros, sent)
        ours = step(STRATEGIES["median"](), sent)
        assert all(np.allclose(ours[name], theirs[name], rtol=1e-6, atol=0) for name in ours)
