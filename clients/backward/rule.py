"""The contract of a backward method: which layers train, and how their gradients are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from fedapt.options import Kind
from fedapt.quant.treatment import WHOLE, Module, Scheme, Treatment
from fedapt.quant.wire import room_of

if TYPE_CHECKING:
    from fedapt.cost.workload import Lender


@dataclass(frozen=True, eq=False)
class GlobalModel:
    """What the server knows before the first round. build: an instance without meaning in its weights; arrays: the float model.

    modules: all that hold parameters, in order; input_shape: of one sample; vocabulary: of token inputs, 0 for others.
    """

    build: Callable[[], nn.Module]
    arrays: Mapping[str, np.ndarray]
    modules: Sequence[Module]
    input_shape: tuple[int, ...]
    vocabulary: int
    seed: int


class Backward(Kind):
    """The `backward:` block of a scenario; one file in `clients/backward` adds one.

    A server may send a client such a block in place of its own, with every choice made: that is a scheme.
    """

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def at_once(self) -> bool:
        """Whether a layer moves as soon as its gradient exists, or all of them when the last one does."""
        return True

    @property
    def words(self) -> str:
        """What a client does by it, for a sentence of what it gave up."""
        return self.kind.replace("_", " ")

    @property
    def told_bytes(self) -> int:
        """How much longer a message is, at most, that tells a client to train by it."""
        return room_of({"backward": self.model_dump()})

    def treat(self, modules: Sequence[Module]) -> Mapping[str, Treatment]:
        """Return the treatment of each module that is not treated exactly, by name, given all that hold parameters, in order.

        Raises ScenarioError, naming the layer and why, for a model that the method cannot serve.
        """
        raise NotImplementedError

    def begin(self, model: GlobalModel) -> Scheme:
        """Return the scheme that the server sends, with what only it can choose; nothing, unless replaced."""
        return WHOLE

    def search(self, model: GlobalModel) -> Lender | None:
        """Return what searches the scheme of each kind of device; nothing, unless replaced."""
        return None
