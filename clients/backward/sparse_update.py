"""Sparse update: the biases of the last layers, some layers at a share of their input channels, and the head.

Lin et al., "On-Device Training Under 256KB Memory" (NeurIPS 2022, arXiv 2206.15472), from its published description. Open
choices are in docs/methods.md: layers are counted in the model's order, dense ones too, and the last is the head; a norm trains
with the bias of the layer before it; the channels of a depthwise convolution are its groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedapt.clients.backward.rule import Backward, GlobalModel
from fedapt.errors import ScenarioError
from fedapt.quant.ops import BackwardRule, ConvOp, EmbeddingOp, Op
from fedapt.quant.parts import Slice
from fedapt.quant.treatment import FROZEN, WHOLE, Module, Scheme, Treatment
from fedapt.seeding import numpy_stream

if TYPE_CHECKING:
    from fedapt.cost.workload import Lender

Share = Annotated[float, Field(gt=0, le=1)]


class SparseUpdate(Backward):
    """Train a part of the model, and keep only what that part needs.

    With nothing given, the server searches the scheme for each kind of device: the one that its memory has room for.
    """

    kind: Literal["sparse_update"] = "sparse_update"
    biases: int | None = Field(
        default=None,
        ge=0,
        description="the biases of so many of the last layers train; null: of all from the first in `weights` on",
    )
    weights: dict[str, Share] | None = Field(
        default=None, description="layers whose weights train, each with a share of its input channels; null: searched"
    )
    choose: Literal["magnitude", "first", "random"] = Field(
        default="magnitude", description="which channels: those of the largest weights at the start, the first ones, or any"
    )
    qas: bool = Field(
        default=True,
        description="quantisation-aware scaling; false: codes move by lr times their own gradient, plain SGD on integers",
    )
    order: Literal["at_once", "after_backward"] = Field(
        default="at_once", description="when a layer is updated: as soon as its gradient exists, or all when the last does"
    )
    channels: dict[str, str] = Field(
        default_factory=dict, description="by layer, the chosen channels as bits of a hexadecimal number; the server fills it in"
    )

    @property
    def searched(self) -> bool:
        """Whether the server is to search the scheme."""
        return self.weights is None and self.biases is None

    @property
    def at_once(self) -> bool:
        """Whether a layer moves as soon as its gradient exists."""
        return self.order == "at_once"

    @property
    def words(self) -> str:
        """What trains, for a sentence."""
        shares = (self.weights or {}).items()
        parts = [f"`{layer}`" + (f" at {share:.3g} of its inputs" if share < 1 else "") for layer, share in shares]
        biases = [f"the last {self.biases} biases" if self.biases > 1 else "one bias"] if self.biases else []
        return f"only {', '.join([*parts, *biases, 'the head'])} trained"

    def treat(self, modules: Sequence[Module]) -> Mapping[str, Treatment]:
        """Return what trains a part, and what is frozen."""
        layers = [module for module in modules if module.op is not None]
        if len(layers) < 2:
            raise ScenarioError("sparse_update: the model has no layer before its head that could be left untrained; use `exact`")
        shares = self.weights or {}
        names = [layer.name for layer in layers[:-1]]
        if unknown := sorted(set(shares) - set(names)):
            raise ScenarioError(f"sparse_update: no layer `{unknown[0]}` before the head; the model has {', '.join(names)}")
        if stray := sorted(set(self.channels) - set(shares)):
            raise ScenarioError(f"sparse_update: `channels` names `{stray[0]}`, which is not in `weights`; leave `channels` out")
        if self.biases is not None and self.biases > len(layers):
            raise ScenarioError(f"sparse_update: `biases` is {self.biases}, but the model has {len(layers)} layers; lower it")
        firsts = [names.index(name) for name in shares]
        biased = len(layers) - min(firsts, default=len(names)) if self.biases is None else self.biases
        with_bias = {layer.name for layer in layers[len(layers) - min(biased, len(layers)) :]} | {layers[-1].name}
        treated: dict[str, Treatment] = {}
        above = ""
        for module in modules:
            if module.op is None:
                treated |= {} if above in with_bias else {module.name: FROZEN}
                continue
            above = module.name
            rule = self._rule(module, shares.get(module.name, 1.0))
            treatment = Treatment(rule, weight=above in shares or module is layers[-1], bias=above in with_bias)
            treated |= {} if treatment == Treatment() else {above: treatment}
        return treated

    def _rule(self, layer: Module, share: float) -> BackwardRule:
        if share == 1:
            return BackwardRule() if self.qas else PartialWeight(scaled=False)
        if isinstance(layer.op, EmbeddingOp):
            raise ScenarioError(f"sparse_update: `{layer.name}` is an embedding, which has no input channels; give it 1")
        total = channels_of(layer)
        count = math.ceil(share * total)
        places = _from_hex(self.channels[layer.name]) if layer.name in self.channels else tuple(range(count))
        if len(places) != count or max(places) >= total:
            raise ScenarioError(f"sparse_update: `channels` of `{layer.name}` are not {count} of its {total} input channels")
        return PartialWeight.of(layer, places, self.qas)

    def begin(self, model: GlobalModel) -> Scheme:
        """Return the scheme with its channels chosen."""
        return WHOLE if self.searched else Scheme(backward=self.resolved(model.modules, model.arrays, model.seed))

    def search(self, model: GlobalModel) -> Lender | None:
        """Return the search for each kind of device, where nothing is given."""
        from fedapt.clients.backward.scheme_search import SparseSearch, worth_of

        def resolve(block: SparseUpdate) -> SparseUpdate:
            return block.resolved(model.modules, model.arrays, model.seed)

        return SparseSearch(self, model.modules, lambda: worth_of(model), resolve) if self.searched else None

    def resolved(self, modules: Sequence[Module], weights: Mapping[str, np.ndarray], seed: int) -> SparseUpdate:
        """Return the same with its channels chosen by the weights of the model (float arrays by parameter name)."""
        if self.choose == "first" or not self.weights:
            return self
        by_name = {module.name: module for module in modules}
        chosen = dict(self.channels)
        for name, share in self.weights.items():
            layer = by_name.get(name)
            if layer is None or share == 1 or name in self.channels or isinstance(layer.op, EmbeddingOp):
                continue
            total = channels_of(layer)
            size = squares_of(layer, weights[f"{name}.weight"])
            if self.choose == "random":
                size = numpy_stream(seed, "channels", len(chosen)).random(total)
            largest = np.argsort(-size, kind="stable")[: math.ceil(share * total)]
            chosen[name] = _to_hex(sorted(int(place) for place in largest))
        return self.model_copy(update={"channels": chosen})


def is_depthwise(layer: Module) -> bool:
    """Return whether each of a convolution's groups has one input channel."""
    return isinstance(layer.op, ConvOp) and layer.op.groups > 1 and layer.weight_shape[1] == 1


def channels_of(layer: Module) -> int:
    """Return how many input channels a layer has to choose from: of a depthwise convolution its groups, else of one group."""
    return layer.op.groups if is_depthwise(layer) else layer.weight_shape[1]  # type: ignore[union-attr]


def squares_of(layer: Module, weight: np.ndarray) -> np.ndarray:
    """Return the sum of the squares of each input channel of something shaped like a weight, (channels,) float64."""
    squares = np.square(weight, dtype=np.float64)
    if is_depthwise(layer):
        return np.asarray(squares.reshape(channels_of(layer), -1).sum(1))
    return np.asarray(squares.sum(tuple(axis for axis in range(weight.ndim) if axis != 1)))


@dataclass(frozen=True)
class PartialWeight(BackwardRule):
    """Exact gradients of a part of a weight, which reads these channels of the input; scaled: see `SparseUpdate.qas`."""

    part: Slice | None = None
    inputs: tuple[int, ...] = ()
    scaled: bool = True

    @classmethod
    def of(cls, layer: Module, places: Sequence[int], scaled: bool) -> PartialWeight:
        """Return the rule for some of a layer's input channels, as `channels_of` counts them."""
        groups = layer.op.groups if isinstance(layer.op, ConvOp) else 1
        if is_depthwise(layer):
            each = layer.weight_shape[0] // groups
            outputs = tuple(place * each + number for place in places for number in range(each))
            return cls(Slice(0, outputs), tuple(places), scaled)
        each = layer.weight_shape[1]
        inputs = tuple(group * each + place for group in range(groups) for place in places)
        return cls(Slice(1, tuple(places)), inputs, scaled)

    def save(self, op: Op, x: Tensor) -> tuple[Tensor, ...]:
        """Keep the chosen channels."""
        if self.part is None:
            return (x,)
        return (x.index_select(1 if isinstance(op, ConvOp) else x.dim() - 1, torch.tensor(self.inputs)),)

    def weight_gradient(self, op: Op, saved: tuple[Tensor, ...], weight_shape: torch.Size, grad_output: Tensor) -> Tensor:
        """Return the gradient of the part."""
        if self.part is None:
            return op.weight_gradient(saved[0], weight_shape, grad_output)
        shape = torch.Size(self.part.shape(tuple(weight_shape)))
        if self.part.dim == 1:
            return op.weight_gradient(saved[0], shape, grad_output)
        assert isinstance(op, ConvOp)
        alone = replace(op, groups=len(self.inputs))
        return alone.weight_gradient(saved[0], shape, Slice(1, self.part.places).of(grad_output))

    def weight_gradient_macs(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Return the MACs of the gradient of the part."""
        return op.macs(weight_shape, y_shape[1:]) * self.updated(weight_shape) // math.prod(weight_shape)

    def saved_numbers(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int]) -> int:
        """Return how many numbers of one sample are kept."""
        return math.prod(x_shape[1:]) * self.updated(weight_shape) // math.prod(weight_shape)


def _to_hex(places: Sequence[int]) -> str:
    return f"{sum(1 << place for place in places):x}"


def _from_hex(text: str) -> tuple[int, ...]:
    try:
        bits = int(text, 16)
    except ValueError:
        raise ScenarioError(
            f"sparse_update: `channels` has {text!r}, expected a hexadecimal number; leave it to the server"
        ) from None
    return tuple(place for place in range(bits.bit_length()) if bits >> place & 1)
