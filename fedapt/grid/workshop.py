"""Where simulated clients work: one app, one model skeleton for each way to compute gradients, and the data of all clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fedapt.clients.app import client_app
from fedapt.clients.backward.rule import Backward
from fedapt.clients.client import Client
from fedapt.clients.continual.memory import Continual
from fedapt.clients.faulty import Faults, faulty
from fedapt.clients.samples.filter import Filter
from fedapt.data import Federation
from fedapt.grid.direct import visit_directly
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.messages import Messages
from fedapt.grid.visit import App, Arrays, Outcome, Task, visit
from fedapt.models import build
from fedapt.models.model import ModelOptions
from fedapt.quant import OperandWidths, quantisable
from fedapt.quant.skeleton import Skeleton, float_arrays


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

    def open(self) -> Workbench:
        """Return what plays every client of the federation in this process."""
        model = build(self.model, self.federation.data_shape, 0)
        shapes = {name: values.shape for name, values in float_arrays(model).items()}
        return Workbench(self, self.clients(), Messages.of(shapes, quantisable(model)))

    def clients(self) -> Callable[[int], Client]:
        """Return the function that finds a client by its number."""
        skeletons = [
            Skeleton(lambda: build(self.model, self.federation.data_shape, 0), method.backward.rule(), method.operands)
            for method in self.methods
        ]

        def client(number: int) -> Client:
            chosen = self.method_of[number]
            return Client(
                skeletons[chosen],
                self.federation.train,
                self.federation.rows[number],
                self.federation.held_out[number],
                self.methods[chosen].samples,
                self.methods[chosen].continual,
            )

        return client


class Workbench:
    """Plays the clients of a workshop one after the other; a `Player`.

    Messages are made where a fault may change them; without any, a client is handed the model itself, to the same result.
    """

    def __init__(self, workshop: Workshop, client_of: Callable[[int], Client], messages: Messages) -> None:
        self.app: App = client_app(lambda context: client_of(int(context.node_config["partition-id"])), [faulty(workshop.faults)])
        self._client_of, self._messages, self._by_message = client_of, messages, workshop.faults.touch_training

    def visit(self, arrays: Arrays, task: Task, total: ExactSum | None) -> Outcome:
        """As in `Player`."""
        if self._by_message:
            return visit(arrays, task, self.app, total)
        return visit_directly(arrays, task, self._client_of(task.client), self._messages, total)
