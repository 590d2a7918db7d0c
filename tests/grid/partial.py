"""Clients that train a part of the model: what a server might lend them, one scheme after another."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal
from unittest.mock import patch

from pydantic import Field

from fedapt.clients.backward import RULES
from fedapt.clients.backward.rule import Backward
from fedapt.cost.planner import Plan
from fedapt.grid.participant import Participant
from fedapt.quant.ops import BackwardRule
from fedapt.quant.parts import Slice
from fedapt.quant.treatment import FROZEN, WHOLE, Module, Scheme, Treatment


@dataclass(frozen=True)
class Sliced(BackwardRule):
    """Exact gradients of some places of a weight."""

    slice: Slice

    @property
    def part(self) -> Slice:
        return self.slice

    def weight_gradient(self, op, saved, weight_shape, grad_output):
        return self.slice.of(op.weight_gradient(saved[0], weight_shape, grad_output))


class Mosaic(Backward):
    """slices: by layer, the places of one dimension; biased: layers of which the bias alone trains; still: those that do not."""

    kind: Literal["mosaic"] = "mosaic"
    slices: dict[str, dict[str, list[int]]] = Field(default_factory=dict)
    biased: list[str] = Field(default_factory=list)
    still: list[str] = Field(default_factory=list)

    def treat(self, modules: Sequence[Module]) -> Mapping[str, Treatment]:
        sliced = {
            layer: Treatment(Sliced(Slice(int(dim), tuple(places))))
            for layer, some in self.slices.items()
            for dim, places in some.items()
        }
        bias_alone = dict.fromkeys(self.biased, Treatment(weight=False))
        return sliced | bias_alone | dict.fromkeys(self.still, FROZEN)


INPUTS = Mosaic(slices={"conv2": {"1": [0, 3, 7, 15]}, "dense1": {"1": [0, 3, 50]}}, biased=["conv1"])
OUTPUTS = Mosaic(slices={"conv2": {"0": [1, 2, 30]}, "dense2": {"0": [4]}}, still=["conv1", "dense1"])
SCHEMES = [Scheme(("conv1", "conv2")), Scheme(backward=INPUTS), Scheme(("dense1",), OUTPUTS), WHOLE]


@contextmanager
def lent(schemes):
    """Let client n train by the n-th scheme, counted round and round."""
    plan = Participant.plan

    def with_scheme(self, *given, **named):
        found = plan(self, *given, **named)
        return replace(found, scheme=schemes[self.client % len(schemes)]) if isinstance(found, Plan) else found

    with patch.dict(RULES, mosaic=Mosaic), patch.object(Participant, "plan", with_scheme):
        yield
