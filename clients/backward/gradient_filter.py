"""Gradient filtering: both gradients of the last convolutions from one number for each patch of their errors and inputs.

Yang, Li, Marculescu, "Efficient On-device Training via Gradient Filtering", CVPR 2023, https://arxiv.org/abs/2301.00330; written
from its equations. On patches of errors a convolution is a pointwise one whose kernel is the sum of its taps.

The paper leaves open what patches mean where sizes differ. Here an output stands for as many places of the input as its stride,
in the middle of those that it reads: patches of both lie alike whatever kernel, padding and dilation. Places that no output
stands for, at the borders of an unpadded convolution, have no error and are in no sum; what lies in the padding is lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedapt.clients.backward.rule import Backward
from fedapt.errors import ScenarioError
from fedapt.quant.ops import BackwardRule, ConvOp, Op
from fedapt.quant.treatment import FROZEN, Module, Treatment
from fedapt.quant.weight import TrainedWeight

# MACs that filtering must save for each number that it adds up or spreads. Measured by bench.backward_speed on one thread: layers
# above take 1.2 times to 2.6 times less, those below as much as five times more.
PAYING = 250


class GradientFilter(Backward):
    """Fine-tune the last convolutions with filtered gradients and what follows them exactly; all before them is frozen."""

    kind: Literal["gradient_filter"] = "gradient_filter"
    patch: int = Field(
        default=2, ge=1, description="side of the patches of an error; 1 is exact backpropagation of the same layers"
    )
    layers: int = Field(default=2, ge=1, description="how many of the last convolutions train")
    parity: bool = Field(
        default=False, description="gradients as in the authors' code: not divided by the stride of each dimension, so too large"
    )

    @property
    def words(self) -> str:
        """What a client does by it, for a sentence."""
        return f"gradients of the last {self.layers} convolutions filtered by {self.patch}"

    def treat(self, modules: Sequence[Module]) -> Mapping[str, Treatment]:
        """Return what filters the last convolutions, and what freezes all modules before them."""
        convolutions = [place for place, module in enumerate(modules) if isinstance(module.op, ConvOp)]
        if not convolutions:
            last = f"; its last layer is `{modules[-1].name}`" if modules else ""
            raise ScenarioError(f"gradient_filter: the model has no convolution to filter the gradients of{last}; use `exact`")
        if self.layers > len(convolutions):
            names = ", ".join(f"`{modules[place].name}`" for place in convolutions)
            raise ScenarioError(
                f"gradient_filter: `layers` is {self.layers}, but the model's convolutions are only {names}; lower `layers`"
            )
        chosen = convolutions[-self.layers :]
        treated = {module.name: FROZEN for module in modules[: chosen[0]]}
        if self.patch > 1:
            for one in (modules[place] for place in chosen):
                treated[one.name] = Treatment(FilteredConv(self.patch, one.weight_shape[2:], self.parity))
        return treated


@dataclass(frozen=True)
class FilteredConv(BackwardRule):
    """Gradients of a convolution from patches: the mean of its error, and the sum of its input, which is all that is kept.

    patch: places of the output along each dimension; kernel: taps along each; parity: leave out the division by the strides,
    which the authors' code forgets. The kernel's sum over its taps is not kept, but computed again before the weight moves.
    """

    patch: int
    kernel: tuple[int, ...]
    parity: bool = False

    def save(self, op: Op, x: Tensor) -> tuple[Tensor, ...]:
        """Return the sums of x (n, in, *places) over the patches that stand for those of the output: (n, in, *patches)."""
        conv = _conv(op)
        covered = [outputs * s for outputs, s in zip(self._outputs(conv, x.shape), conv.stride, strict=True)]
        aligned = _placed(x, [-start for start in self.starts(conv)], covered)
        return (_pooled(aligned, [self.patch * s for s in conv.stride], 1),)

    def gradients(
        self, op: Op, saved: tuple[Tensor, ...], x_shape: torch.Size, weight: TrainedWeight, error: Tensor, of_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the error for the layer before, alike all over a patch, and the gradient of the weight, alike for all taps."""
        conv = _conv(op)
        pointwise = _pointwise(conv)
        # Dividing the means divides both gradients.
        means = _pooled(error, [self.patch] * len(self.kernel), None)
        means = means if self.parity else means.div_(math.prod(conv.stride))
        before = None
        if of_input:
            taps = weight.dequantise().flatten(2).sum(2).view(*weight.shape[:2], *(1,) * len(self.kernel))
            patches = (*x_shape[:2], *means.shape[2:])
            before = self._spread(conv, pointwise.input_gradient(patches, taps, means), x_shape, error.shape)
        if not saved:
            return before, None
        one_tap = (*weight.shape[:2], *(1,) * len(self.kernel))
        return before, pointwise.weight_gradient(saved[0], one_tap, means).expand(weight.shape).contiguous()

    def error_macs(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Return the MACs of the error for the layer before: of a pointwise convolution of patches."""
        return _pointwise(_conv(op)).macs(weight_shape[:2], self._patches(y_shape))

    def weight_gradient_macs(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Return the MACs of as much, and one for each number of the error and of the input that is summed over a patch."""
        return self.error_macs(op, weight_shape, x_shape, y_shape) + math.prod(y_shape[1:]) + math.prod(x_shape[1:])

    def saved_numbers(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int]) -> int:
        """Return how many numbers `save` keeps of one sample: one for each input channel and patch."""
        return math.prod(self._patches((1, x_shape[1], *self._outputs(_conv(op), x_shape))))

    def step_macs(self, weight_shape: Sequence[int], of_input: bool) -> int:
        """Return one MAC for each weight, which the kernel's sum over its taps adds, if there is an error to compute from it."""
        return math.prod(weight_shape) if of_input else 0

    def pays(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> bool:
        """Return whether a step of the layer is clearly faster than with exact gradients; shapes with the batch that trains."""
        one = y_shape[1:]
        saved = 2 * y_shape[0] * (op.macs(weight_shape, one) - self.error_macs(op, weight_shape, x_shape, y_shape))
        touched = 2 * math.prod(x_shape) + math.prod(y_shape) + math.prod(weight_shape)
        return saved > PAYING * touched

    def starts(self, op: ConvOp) -> tuple[int, ...]:
        """Return where the input places of the first output begin, in each dimension; before 0 lies padding."""
        return tuple(
            max((d * (k - 1) - s) // 2 + 1, 0) - p
            for s, p, d, k in zip(op.stride, op.padding, op.dilation, self.kernel, strict=True)
        )

    def _outputs(self, op: ConvOp, x_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(
            (side + 2 * p - d * (k - 1) - 1) // s + 1
            for side, s, p, d, k in zip(x_shape[2:], op.stride, op.padding, op.dilation, self.kernel, strict=True)
        )

    def _patches(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape (channels, *patches) of one sample of an output of `shape`."""
        return (shape[1], *(-(-side // self.patch) for side in shape[2:]))

    def _spread(self, op: ConvOp, patches: Tensor, x_shape: Sequence[int], y_shape: Sequence[int]) -> Tensor:
        """Give every place of x the value of its patch."""
        for dim, (s, outputs) in enumerate(zip(op.stride, y_shape[2:], strict=True), 2):
            patches = patches.repeat_interleave(self.patch * s, dim).narrow(dim, 0, outputs * s)
        return _placed(patches, self.starts(op), x_shape[2:])


def published_flops(weight_shape: Sequence[int], y_shape: Sequence[int], patch: int, of_input: bool) -> int:
    """Return the FLOPs of one sample's backward pass of a dense convolution, in the paper's accounting.

    patch: 1 for ordinary backpropagation; of_input: whether the error for the layer before is computed.
    """
    out, inputs, *kernel = weight_shape
    places, taps = math.prod(y_shape[2:]), math.prod(kernel)
    if patch == 1:
        of_weight = out * inputs * (taps * places + places - 1)
        return of_weight + (2 * inputs * out * places * taps if of_input else 0)
    patches = math.prod(-(-side // patch) for side in y_shape[2:])
    error = patches * inputs * (2 * out - 1) + inputs * out * (taps - 1) if of_input else 0
    return inputs * out * (2 * patches - 1) + out * places + error


def _conv(op: Op) -> ConvOp:
    assert isinstance(op, ConvOp), "only convolutions are filtered"
    return op


def _pointwise(op: ConvOp) -> ConvOp:
    """Return what the convolution is on patches."""
    dimensions = len(op.stride)
    return ConvOp((1,) * dimensions, (0,) * dimensions, (1,) * dimensions, op.groups)


def _placed(values: Tensor, starts: Sequence[int], sides: Sequence[int]) -> Tensor:
    """Return `values` as they lie from `starts` on in a tensor of these sides, zero elsewhere; what lies outside is lost."""
    lengths = values.shape[2:]
    pads = [pad for start, side, length in zip(starts, sides, lengths, strict=True) for pad in (side - start - length, start)]
    return F.pad(values, pads[::-1]) if any(pads) else values


def _pooled(values: Tensor, patch: Sequence[int], divisor: int | None) -> Tensor:
    """Return the sums over patches divided by `divisor`, or their means, from the first corner on; the last may be smaller."""
    if values.dim() == 3:
        return _pooled(values.unsqueeze(2), (1, *patch), divisor).squeeze(2)
    return F.avg_pool2d(values, tuple(patch), ceil_mode=True, divisor_override=divisor)
