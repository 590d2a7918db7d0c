"""A small federation on the digits."""

import numpy as np

from fedapt.enrolment import enrol
from fedapt.grid.flower import identify_process
from fedapt.scenario import Scenario

identify_process()


def scenario(**changes):
    """Return a scenario of 12 clients on the digits; `changes` replace top-level keys."""
    base = {
        "version": 1,
        "name": "small",
        "rounds": 2,
        "data": {"source": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}},
        "model": "cnn",
        "clients": {
            "count": 12,
            "per_round": 6,
            "local": {"lr": 0.05, "batch": 16},
            "method": {"precision": {"kind": "fixed", "bits": 4}},
        },
        "engine": {"kind": "inline"},
    }
    return Scenario.model_validate(base | changes)


def enrolled(wanted: Scenario):
    """Return the enrolment of a scenario on its data."""
    from fedapt.data import load

    return enrol(wanted, load(wanted.data, wanted.clients.count, wanted.seed))


def same_bits(one, other):
    """Return whether two models are equal to the last bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
