"""Which layers of a model train, and how their gradients are computed: what a method of `clients/backward` decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fedapt.quant.ops import BackwardRule, Op


@dataclass(frozen=True)
class Module:
    """A module that holds parameters, as a method sees it. op: None for one that is not quantised, such as a norm."""

    name: str
    op: Op | None
    weight_shape: tuple[int, ...]
    has_bias: bool


@dataclass(frozen=True)
class Treatment:
    """How one module trains. rule: how a layer's gradients are computed; weight, bias: whether they train.

    A module that is not quantised trains as a whole if either does.
    """

    rule: BackwardRule = field(default_factory=BackwardRule)
    weight: bool = True
    bias: bool = True

    @property
    def keeps_less(self) -> bool:
        """Whether it keeps less for the backward pass than exact backpropagation does."""
        return not self.weight or type(self.rule).save is not BackwardRule.save


EXACT = Treatment()
FROZEN = Treatment(weight=False, bias=False)


class Treats(Protocol):
    """A method of `clients/backward`; two that are equal treat any model alike."""

    @property
    def at_once(self) -> bool:
        """Whether a layer moves as soon as its gradient exists, or all of them when the last one does."""

    @property
    def words(self) -> str:
        """What a client does by it, as `... frozen`, for a sentence."""

    @property
    def told_bytes(self) -> int:
        """How much longer a message is, at most, that tells a client to train by it."""

    def treat(self, modules: Sequence[Module]) -> Mapping[str, Treatment]:
        """Return the treatment of each module, given in the model's order, that is not treated exactly.

        Raises ScenarioError, naming the layer and why, for a model that the method cannot serve.
        """


@dataclass(frozen=True)
class Scheme:
    """frozen: modules that do not train, each without what is inside it; backward: what treats the others, None: the client's own
    method.
    """

    frozen: tuple[str, ...] = ()
    backward: Treats | None = None

    @property
    def words(self) -> str:
        """What differs from the client's own method, for a sentence."""
        given = [self.backward.words] if self.backward else []
        return ", ".join([*given, f"{_listed(self.frozen)} frozen"] if self.frozen else given)


WHOLE = Scheme()


def _listed(names: tuple[str, ...]) -> str:
    return f"`{names[0]}`" if len(names) == 1 else f"`{names[0]}` to `{names[-1]}`"
