"""Error-map pruning: both gradients of a layer from the output channels whose errors matter most.

Wu et al., "Enabling On-Device CNN Training by Self-Supervised Instance Filtering and Error Map Pruning" (TCAD 2020, arXiv
2007.03213). The authors' code is not public. Inferred here: the product as the score, which bounds what a channel adds to the
error for the layer before; that biases keep their exact gradient, a sum that costs no multiplication; and that the last layer is
left alone, as its channels are the classes. `sum` is the score of a public re-implementation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fedapt.clients.backward.rule import Backward
from fedapt.errors import ScenarioError
from fedapt.quant.ops import BackwardRule, ConvOp, LinearOp, Op
from fedapt.quant.treatment import Module, Treatment
from fedapt.quant.weight import TrainedWeight

Score = Literal["product", "sum"]


class ErrorMapPruning(Backward):
    """Keep some of the output channels of each error, chosen anew in each mini-batch; the other kernels do not move."""

    kind: Literal["error_map_pruning"] = "error_map_pruning"
    keep: float = Field(default=0.5, gt=0, le=1, description="share of a layer's output channels that are kept, rounded up")
    score: Score = Field(
        default="product",
        description="what a channel is worth: the L1 norms of its error and its kernel multiplied, or 2 : 1 added",
    )

    def treat(self, modules: Sequence[Module]) -> Mapping[str, Treatment]:
        """Return the same treatment of every convolution and dense layer but the last."""
        layers = [module for module in modules if isinstance(module.op, ConvOp | LinearOp)]
        if not layers:
            raise ScenarioError(
                "error_map_pruning: the model has no convolution or dense layer to prune the error of; use `exact`"
            )
        if len(layers) == 1:
            raise ScenarioError(
                f"error_map_pruning: `{layers[0].name}` is the only convolution or dense layer of the model, and the last one's"
                " channels are the classes, which are all kept: nothing is left to prune; use `exact`"
            )
        if self.keep == 1:
            return {}
        return {
            one.name: Treatment(PrunedErrors(self.keep, self.score, _sets(one.op, one.weight_shape[0]))) for one in layers[:-1]
        }


@dataclass(frozen=True)
class PrunedErrors(BackwardRule):
    """Gradients from the `keep` best output channels of a mini-batch, of equal ones the first; all others are zero.

    Of a grouped convolution the best channels of each group are kept, which leaves a grouped convolution; where a group has one
    channel, as depthwise, the best groups. sets: into how many the channels fall of which each keeps its best.
    """

    keep: float
    score: Score = "product"
    sets: int = 1

    def gradients(
        self, op: Op, saved: tuple[Tensor, ...], x_shape: torch.Size, weight: TrainedWeight, error: Tensor, of_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the error for the layer before and the gradient of the weight, as `BackwardRule` does."""
        kept, channels = self.kept(weight.shape), weight.shape[0]
        if kept == channels:
            return super().gradients(op, saved, x_shape, weight, error, of_input)
        values = weight.dequantise()
        chosen = self.chosen(op, values, error)
        values = values.index_select(0, chosen)
        error = error.index_select(channel_dim(op), chosen)
        inputs = None
        if isinstance(op, ConvOp) and op.groups == channels:
            op, inputs = ConvOp(op.stride, op.padding, op.dilation, kept), _inputs_of(chosen, weight.shape[1])
        before = _error_before(op, x_shape, values, error, inputs) if of_input else None
        if not saved:
            return before, None
        x = saved[0] if inputs is None else saved[0].index_select(1, inputs)
        gradient = error.new_zeros(weight.shape)
        return before, gradient.index_copy_(0, chosen, op.weight_gradient(x, values.shape, error))

    def chosen(self, op: Op, weight: Tensor, error: Tensor) -> Tensor:
        """Return the channels that are kept, (kept,) int64 ascending, given the error of the output."""
        scores = self.scores(op, weight, error).view(self.sets, -1)
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : self.kept(weight.shape) // self.sets]
        first = torch.arange(self.sets).mul_(scores.shape[1]).view(-1, 1)
        return best.add(first).flatten().sort().values

    def scores(self, op: Op, weight: Tensor, error: Tensor) -> Tensor:
        """Return what each output channel is worth, (out,)."""
        others = [dim for dim in range(error.dim()) if dim != channel_dim(op) % error.dim()]
        # Five times as fast as torch's own L1 norm, and gone before the gradients need more.
        errors, kernels = error.abs().sum(others), weight.abs().flatten(1).sum(1)
        return errors * kernels if self.score == "product" else 2 * errors + kernels

    def kept(self, weight_shape: Sequence[int]) -> int:
        """Return how many output channels are kept: equally many of each set."""
        # In floats 0.28 of 25 is 7.000000000000001, which is no eighth channel.
        return self.sets * max(math.ceil(round(self.keep * (weight_shape[0] // self.sets), 9)), 1)

    def error_macs(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Return the MACs of the error for the layer before: the kept channels' share."""
        return op.macs(weight_shape, y_shape[1:]) // weight_shape[0] * self.kept(weight_shape)

    def weight_gradient_macs(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Return the MACs of the kept channels' gradient, and one for each number of the error, which is its score."""
        scored = 0 if self.kept(weight_shape) == weight_shape[0] else math.prod(y_shape[1:])
        return op.macs(weight_shape, y_shape[1:]) // weight_shape[0] * self.kept(weight_shape) + scored

    def step_macs(self, weight_shape: Sequence[int], of_input: bool) -> int:
        """Return one MAC for each weight, which is the kernels' part of the score."""
        return 0 if self.kept(weight_shape) == weight_shape[0] else math.prod(weight_shape)

    def updated(self, weight_shape: Sequence[int]) -> int:
        """Return how many weights move in a step: the kernels of the kept channels."""
        return self.kept(weight_shape) * math.prod(weight_shape[1:])


def channel_dim(op: Op) -> int:
    """Return the dimension of an output that its channels lie along."""
    return 1 if isinstance(op, ConvOp) else -1


def _sets(op: Op | None, channels: int) -> int:
    """Return a layer's groups, or one set of all channels where groups are kept as a whole."""
    return op.groups if isinstance(op, ConvOp) and op.groups < channels else 1


def _inputs_of(groups: Tensor, each: int) -> Tensor:
    """Return the input channels of some groups that have `each` of them."""
    return (groups.view(-1, 1) * each + torch.arange(each)).flatten()


def _error_before(op: Op, x_shape: torch.Size, weight: Tensor, error: Tensor, inputs: Tensor | None) -> Tensor:
    """Return the error for the layer before; inputs: the channels that it reaches, None for all."""
    if inputs is None:
        return op.input_gradient(x_shape, weight, error)
    some = op.input_gradient((x_shape[0], len(inputs), *x_shape[2:]), weight, error)
    return error.new_zeros(x_shape).index_copy_(1, inputs, some)
