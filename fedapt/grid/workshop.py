"""Where simulated clients work: one app, one model skeleton for each way to compute gradients, and the data of all clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import Context

from fedapt.clients.app import client_app
from fedapt.clients.backward.rule import Backward
from fedapt.clients.client import Client
from fedapt.clients.continual.memory import Continual
from fedapt.clients.faulty import Faults, faulty
from fedapt.clients.samples.filter import Filter
from fedapt.data import Federation
from fedapt.grid.visit import App
from fedapt.models import build
from fedapt.models.model import ModelOptions
from fedapt.quant import OperandWidths
from fedapt.quant.skeleton import Skeleton


@dataclass(frozen=True)
class ClientMethod:
    """What a client does with its copy of the model, apart from its precision."""

    backward: Backward
    samples: Filter
    continual: Continual
    operands: OperandWidths = field(default_factory=OperandWidths)


@dataclass(frozen=True)
class Workshop:
    """What a worker needs to play any client; plain data, shared with workers once."""

    federation: Federation
    model: ModelOptions
    methods: Sequence[ClientMethod]
    method_of: Sequence[int]
    faults: Faults = field(default_factory=Faults)

    def open(self) -> App:
        """Return the app that plays every client of the federation in this process."""
        return client_app(self.clients(), [faulty(self.faults)])

    def clients(self) -> Callable[[Context], Client]:
        """Return the function that finds the client of a node, by its `partition-id`."""
        skeletons = [
            Skeleton(lambda: build(self.model, self.federation.data_shape, 0), method.backward.rule(), method.operands)
            for method in self.methods
        ]

        def client_of(context: Context) -> Client:
            number = int(context.node_config["partition-id"])
            chosen = self.method_of[number]
            return Client(
                skeletons[chosen],
                self.federation.train,
                self.federation.rows[number],
                self.federation.held_out[number],
                self.methods[chosen].samples,
                self.methods[chosen].continual,
            )

        return client_of
