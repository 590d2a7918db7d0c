import numpy as np
import pytest

from fedapt.errors import RunFailed
from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Sent, addressed, reply, step


def sent(**metrics):
    told = [{name: values[place] for name, values in metrics.items()} for place in (0, 1)]
    return [Sent(0, [1.0, 2.0], 1, told[0]), Sent(1, [3.0, -2.0], 3, told[1])]


@pytest.mark.parametrize(
    ("weights", "metrics", "expected"),
    [
        ("samples", {}, [2.5, -1.0]),
        ("fedhq", {"relative_error": (1.0, 4.0)}, [2.09090909, -0.18181818]),
        ("shrunk_var", {"update_variance": (1.0, 4.0)}, [2.29545455, -0.59090909]),
        ("bits", {"mean_bits": (2.0, 8.0)}, [2.84615385, -1.69230769]),
        ("inv_var", {"update_variance": (1.0, 4.0)}, [1.85714286, 0.28571429]),
    ],
)
def test_clients_count_as_stated(weights, metrics, expected):
    """
    d, n, v, b = np.array([[1.0, 2], [3, -2]]), np.array([1, 3]), np.array([1.0, 4]), np.array([2, 8])
    tau2 = np.average(np.square(d - n @ d / 4).sum(axis=1), weights=n)      # 3.75
    w = {"samples": n, "fedhq": n / (1 + v), "shrunk_var": n / (v + tau2), "bits": n * b, "inv_var": n / v}[weights]
    print(w / w.sum() @ d)
    """
    np.testing.assert_allclose(step(STRATEGIES["precision_weighted"](weights=weights), sent(**metrics)), expected, rtol=1e-6)


def test_inverse_variance_leaves_everything_to_those_without_noise():
    """Of (0, 0, 4), the first two share it by samples: (1 * 1 + 3 * 5) / 4."""
    three = [
        Sent(client, [row], count, {"update_variance": v})
        for client, (row, count, v) in enumerate([(1, 1, 0.0), (5, 3, 0.0), (9, 9, 4.0)])
    ]
    assert step(STRATEGIES["precision_weighted"](weights="inv_var"), three).tolist() == [4.0]


def test_shrunk_variance_goes_to_samples_where_clients_differ_by_more_than_noise():
    noisy = sent(update_variance=(1e-9, 4e-9))
    np.testing.assert_allclose(step(STRATEGIES["precision_weighted"](weights="shrunk_var"), noisy), [2.5, -1.0], rtol=1e-6)


@pytest.mark.parametrize("weights", ["shrunk_var", "inv_var", "fedhq", "bits"])
def test_clients_of_full_precision_that_agree_are_no_division_by_zero(weights):
    same = [Sent(client, [2.0], 1 + client, {"update_variance": 0.0, "relative_error": 0.0}) for client in range(3)]
    np.testing.assert_allclose(step(STRATEGIES["precision_weighted"](weights=weights), same), [2.0], rtol=1e-6)


def test_what_is_missing_or_negative_is_named():
    strategy, zeros = STRATEGIES["precision_weighted"](weights="fedhq").build(), {"w": np.zeros(1, np.float32)}
    addressed(strategy, zeros, [2])
    with pytest.raises(RunFailed, match=r"weights: fedhq needs the metric `relative_error` .* client 2 sent only num-examples:"):
        strategy.aggregate_train(1, [reply(2, zeros, {"num-examples": 1})])
    with pytest.raises(RunFailed, match=r"client 2 states -1\.0 as `relative_error`"):
        strategy.aggregate_train(1, [reply(2, zeros, {"num-examples": 1, "relative_error": -1.0})])
