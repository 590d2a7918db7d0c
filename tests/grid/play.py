"""Play rounds of a scenario with any transport and strategy, without a run folder: what the tests compare."""

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord

from fedapt.grid.gateway import Gateway
from fedapt.grid.inline import Inline
from fedapt.models import build
from fedapt.quant.skeleton import float_arrays
from tests.grid.conftest import enrolled


def initial(wanted, enrolment):
    federation = enrolment.workshop.federation
    model = build(wanted.model, federation.shape, federation.classes, wanted.seed)
    return {name: values.numpy() for name, values in float_arrays(model).items()}


def play(wanted, transport_of=None, rounds=2, cohort=range(6), linear=None, strategy=None):
    """Return the model after some rounds with a fixed cohort, all ledger rows, and the gateway (closed)."""
    enrolment = enrolled(wanted)
    transport = transport_of(enrolment) if transport_of else Inline(enrolment.workshop.open())
    linear = wanted.strategy.linear if linear is None else linear
    gateway = Gateway(transport, enrolment.participants, enrolment.wishes, wanted.seed, linear=linear)
    strategy = strategy or wanted.strategy.build()
    arrays, rows = initial(wanted, enrolment), []
    try:
        for number in range(rounds):
            gateway.open_round(number, [client for client in cohort if client in enrolment.participants])
            record = ArrayRecord({name: Array(values) for name, values in arrays.items()})
            replies = gateway.send_and_receive(strategy.configure_train(number + 1, record, ConfigRecord(), gateway))
            aggregated, _ = strategy.aggregate_train(number + 1, replies)
            rows += gateway.rows
            if aggregated is not None:
                arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in aggregated.items()}
    finally:
        gateway.close()
    return arrays, rows, gateway
