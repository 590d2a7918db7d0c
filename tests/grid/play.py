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
    model = build(wanted.model, federation.data_shape, wanted.seed)
    return {name: values.numpy() for name, values in float_arrays(model).items()}


def play(wanted, transport_of=None, rounds=2, cohort=range(6), linear=None, strategy=None, on_outcome=lambda outcome: None):
    """Return the model after some rounds, all ledger rows, and the gateway (closed); cohort: one, or a list of one a round."""
    enrolment = enrolled(wanted)
    transport = transport_of(enrolment) if transport_of else Inline(enrolment.workshop.open())
    linear = wanted.strategy.linear if linear is None else linear
    gateway = Gateway(
        transport,
        enrolment.participants,
        enrolment.wishes,
        wanted.seed,
        linear=linear,
        corrects=wanted.strategy.corrects,
        clock=wanted.clock,
        per_round=wanted.clients.per_round,
        batteries=enrolment.batteries,
        on_outcome=on_outcome,
    )
    strategy = strategy or wanted.strategy.build()
    arrays, rows = initial(wanted, enrolment), []
    try:
        for number in range(rounds):
            asked = cohort[number] if isinstance(cohort[0], list) else cohort
            gateway.open_round(number, [client for client in asked if client in enrolment.participants])
            record = ArrayRecord({name: Array(values) for name, values in arrays.items()})
            replies = gateway.send_and_receive(strategy.configure_train(number + 1, record, ConfigRecord(), gateway))
            rows += gateway.rows
            gateway.batteries.pass_round(gateway.rows, seconds=0.0)
            aggregated, _ = strategy.aggregate_train(number + 1, replies) if replies else (None, None)
            if aggregated is not None:
                before = arrays
                arrays = {name: np.asarray(array.numpy(), np.float32) for name, array in aggregated.items()}
                gateway.wishes.adapt(before, arrays)
    finally:
        gateway.close()
    return arrays, rows, gateway
