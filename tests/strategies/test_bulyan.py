import flwr.serverapp.strategy as flower
import numpy as np

from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from fedapt.strategies.bulyan import mean_near_median
from tests.strategies.rounds import Sent, flowers, step


def test_of_seven_five_are_chosen_and_three_values_averaged():
    """
    rows, left, f = [0.0, 1.0, 1.5, 2.5, 4.0, 7.0, 90.0], list(range(7)), 1
    while len(left) > 2:
        d = [sorted((rows[i] - rows[j]) ** 2 for j in left if j != i)[: max(len(left) - f - 2, 1)] for i in left]
        left.pop(int(np.argmin([sum(x) for x in d])))
    s = np.array([rows[i] for i in range(7) if i not in left])    # 7 and 90 are left
    s[np.argsort(abs(s - np.median(s)))[:3]].mean()               # 1.5, 1 and 2.5
    """
    sent = [Sent(client, [row]) for client, row in enumerate([0.0, 1.0, 1.5, 2.5, 4.0, 7.0, 90.0])]
    np.testing.assert_allclose(step(STRATEGIES["bulyan"](), sent), [5 / 3], rtol=1e-6)


def test_values_nearest_to_the_median_are_averaged_weight_by_weight():
    stacked = np.array([[0.0, 9.0], [1.0, 5.0], [2.0, 6.0], [5.0, 7.0], [9.0, -50.0]])
    assert mean_near_median(stacked, 3).tolist() == [1.0, 6.0]


def test_it_agrees_with_flowers_where_both_choose_the_same():
    """Flower ranks all updates once instead of choosing one after the other; far liars are the last in both."""
    rng = numpy_stream(0, "test")
    rows = [rng.normal(size=6) for _ in range(9)] + [rng.normal(size=6) + 1e3, rng.normal(size=6) - 1e3]
    for f, some in ((0, rows[:9]), (2, rows)):
        sent = [Sent(client, row) for client, row in enumerate(some)]
        theirs = flower.Bulyan(num_malicious_nodes=f, min_available_nodes=1, min_train_nodes=1)
        expected = flowers(theirs, {"w": np.zeros(6, np.float32)}, sent)["w"]
        ours = step(STRATEGIES["bulyan"](num_malicious_nodes=f), sent)
        if f == 0:
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)
        else:
            honest = np.array(rows[:9])
            assert ((ours > honest.min(axis=0)) & (ours < honest.max(axis=0))).all()
            assert ((expected > honest.min(axis=0)) & (expected < honest.max(axis=0))).all()


def test_no_single_weight_can_be_far_off():
    """A liar that hides in one weight of many: Krum may choose it, Bulyan's value stays among the honest ones'."""
    rng = numpy_stream(1, "test")
    rows = [rng.normal(size=400) for _ in range(10)]
    hidden = np.mean(rows, axis=0)
    hidden[0] += 15
    sent = [Sent(client, row) for client, row in enumerate([*rows, hidden])]
    assert step(STRATEGIES["krum"](num_malicious_nodes=2), sent)[0] > 10
    assert abs(step(STRATEGIES["bulyan"](num_malicious_nodes=2), sent)[0]) < max(abs(row[0]) for row in rows)
