"""Where simulated clients work: one app, one model skeleton for each way to compute gradients, and the data of all clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flwr.app import Context

from fedapt.clients.app import client_app
from fedapt.clients.backward.rule import Backward
from fedapt.clients.client import Client
from fedapt.clients.continual.memory import Continual
from fedapt.clients.faulty import Faults, faulty
from fedapt.clients.samples.filter import Filter
from fedapt.clients.stacked import is_dense, is_stackable
from fedapt.data import Federation
from fedapt.grid.batched import BatchedVisits
from fedapt.grid.direct import visit_directly
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.groups import Grouping, Groups, alone
from fedapt.grid.messages import Messages
from fedapt.grid.visit import App, Arrays, Outcome, Player, Task, visit
from fedapt.models import build
from fedapt.models.model import ModelOptions
from fedapt.quant import FLOAT_BITS, OperandWidths, quantisable
from fedapt.quant.half import Compute
from fedapt.quant.skeleton import Skeleton, float_arrays

# Clients that are trained together where it pays. On a CPU more of them leave a core's cache, and gain nothing.
ON_A_CPU = 16
ON_AN_ACCELERATOR = 64
# Numbers of the inputs that are gathered for several steps at once: half a megabyte, in a third of the time.
GATHERED = 2**17


@dataclass(frozen=True)
class ClientMethod:
    """What a client does with its copy of the model, apart from its precision."""

    backward: Backward
    samples: Filter
    continual: Continual
    operands: OperandWidths = field(default_factory=OperandWidths)

    @property
    def is_plain(self) -> bool:
        """Whether it is ordinary training, which can be done for many clients at once."""
        floats = self.operands.activations == self.operands.errors == FLOAT_BITS
        return floats and self.backward.kind == "exact" and self.samples.takes_all and self.continual.kind == "none"


@dataclass(frozen=True)
class Workshop:
    """What a worker needs to play any client; plain data, shared with workers once.

    device: where clients that are trained together are; one alone is trained on the CPU. channels_last: how images are laid out.
    compute: what layers with codes of at most 8 bits multiply in.
    """

    federation: Federation
    model: ModelOptions
    methods: Sequence[ClientMethod]
    method_of: Sequence[int]
    faults: Faults = field(default_factory=Faults)
    device: str = "cpu"
    channels_last: bool = False
    compute: Compute = "float32"

    def open(self) -> Workbench:
        """Return what plays every client of the federation in this process."""
        return Workbench(self)

    def grouping(self, size: int | None) -> Grouping:
        """Return what puts tasks together for `Workbench.visit_together`: up to `size` clients, or where it is known to pay.

        Together go clients that train an ordinary model in an ordinary way, if none of the scenario's faults touches training.
        """
        model = build(self.model, self.federation.data_shape, 0)
        if size is None:
            pays = self.device != "cpu" or is_dense(model)
            size = (ON_A_CPU if self.device == "cpu" else ON_AN_ACCELERATOR) if pays else 1
        if size == 1 or self.faults.touch_training or not is_stackable(model):
            return alone
        plain = [method.is_plain for method in self.methods]
        return Groups(size, [plain[method] for method in self.method_of])

    def clients(self, gathered: int = 0) -> Callable[[int], Client]:
        """Return the function that finds a client by its number. gathered: as in `Client`."""
        skeletons = [
            Skeleton(lambda: build(self.model, self.federation.data_shape, 0), method.backward, method.operands, self.compute)
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
                gathered=gathered,
                channels_last=self.channels_last,
            )

        return client


class Workbench(Player):
    """Plays the clients of a workshop one after the other, or a group of them at once.

    Messages are made where a fault may change them; without any, a client is handed the model itself, to the same result.
    """

    def __init__(self, workshop: Workshop) -> None:
        client_of = workshop.clients(GATHERED)

        def client(context: Context) -> Client:
            return client_of(int(context.node_config["partition-id"]))

        self.app: App = client_app(client, [faulty(workshop.faults, client)])
        self._workshop, self._client_of, self._by_message = workshop, client_of, workshop.faults.touch_training
        self._model = build(workshop.model, workshop.federation.data_shape, 0)
        shapes = {name: values.shape for name, values in float_arrays(self._model).items()}
        self._messages = Messages.of(shapes, quantisable(self._model))

    @cached_property
    def _batched(self) -> BatchedVisits:
        workshop = self._workshop
        return BatchedVisits(self._model, workshop.federation.train, self._client_of, self._messages, workshop.device)

    def visit(self, arrays: Arrays, task: Task, total: ExactSum | None) -> Outcome:
        """As in `Player`."""
        if self._by_message:
            return visit(arrays, task, self.app, total)
        return visit_directly(arrays, task, self._client_of(task.client), self._messages, total)

    def visit_together(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """As in `Player`; the group is one that `Workshop.grouping` has made."""
        return self._batched.visit(arrays, tasks, total, lambda task: self.visit(arrays, task, total))
