"""Every strategy in a Flower app of its own, driven by Flower's `Strategy.start`, on a problem whose optimum is known."""

import numpy as np
import pytest

from fedapt.strategies import STRATEGIES
from fedapt.strategies.robustness import ALL_ATTACKS
from tests.strategies.least_squares import WEIGHTS, fit, loss_of, make_data, optimum_of

# A step of an adaptive server moves a weight by about eta.
OPTIONS = {"fedadam": {"eta": 0.1}, "fedyogi": {"eta": 0.1}, "fedadagrad": {"eta": 0.3}}
UNEQUAL = lambda client: 1 + 3 * client  # noqa: E731


def off(name, data, rounds, steps, lr=0.05, **options):
    """Return how far a strategy ends from the optimum of all data."""
    return np.linalg.norm(fit(STRATEGIES[name](**options), data, rounds, steps, lr=lr) - optimum_of(data))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_loss_falls(name):
    data = make_data(spread=0.3)
    w = fit(STRATEGIES[name](**OPTIONS.get(name, {})), data, rounds=40)
    first, least, last = (loss_of(data, one) for one in (np.zeros(WEIGHTS), optimum_of(data), w))
    assert last - least < 0.1 * (first - least)


def test_with_unequal_steps_fedavg_ends_beside_the_optimum_and_fednova_near_it():
    # It does away with the bias of unequal steps, not with the drift of long ones: hence the small ones.
    data = make_data(spread=2.0)
    biased = off("fedavg", data, 120, UNEQUAL, lr=0.005)
    assert biased > 0.3
    assert off("fednova", data, 120, UNEQUAL, lr=0.005) < biased / 4


@pytest.mark.parametrize("steps", [lambda client: 10, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize(("name", "options"), [("scaffold", {}), ("scaffold", {"clients": 8}), ("feddyn", {"alpha": 3.0})])
def test_corrections_lead_to_the_very_optimum_where_fedavg_is_biased(name, options, steps):
    data = make_data(spread=2.0)
    assert off("fedavg", data, 60, steps) > 0.2
    assert off(name, data, 60, steps, **options) < 1e-4


@pytest.mark.parametrize("name", [name for name, options in STRATEGIES.items() if options.withstands == ALL_ATTACKS])
def test_two_liars_of_eight_do_not_spoil_a_run(name):
    flip = {1: lambda update: -10 * update, 6: lambda update: -10 * update}
    # Bulyan stands one liar of seven, not two of eight.
    options = {"krum": {"num_malicious_nodes": 2}, "multi_krum": {"num_malicious_nodes": 2}, "trimmed_mean": {"beta": 0.25}}
    liars = {1: flip[1]} if name == "bulyan" else flip
    data = make_data(spread=0.3)
    honest = [one for client, one in enumerate(data) if client not in liars]
    least, first = loss_of(honest, optimum_of(honest)), loss_of(honest, np.zeros(WEIGHTS))
    assert loss_of(honest, fit(STRATEGIES[name](**options.get(name, {})), data, 40, liars=liars)) - least < 0.1 * (first - least)
    assert loss_of(honest, fit(STRATEGIES["fedavg"](), data, 40, liars=liars)) > first
