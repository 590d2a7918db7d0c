"""The operations that can train on codes, and the rule by which their gradients are computed.

`BackwardRule` is the seam of `clients/backward`: it is exact backpropagation, and a cheaper rule replaces what it changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedapt.quant.parts import Slice
from fedapt.quant.weight import TrainedWeight


@dataclass(frozen=True)
class LinearOp:
    """y = x W^T + b with W (out, in) and x (..., in)."""

    kind: ClassVar[str] = "linear"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer's output."""
        return F.linear(x, weight, bias)

    def input_gradient(self, x_shape: Sequence[int], weight: Tensor, grad_output: Tensor) -> Tensor:
        """Return the error for the layer before, shaped as x."""
        return grad_output @ weight

    def weight_gradient(self, x: Tensor, weight_shape: Sequence[int], grad_output: Tensor) -> Tensor:
        """Return the gradient of the weight, summed over all leading dimensions."""
        return grad_output.reshape(-1, weight_shape[0]).t() @ x.reshape(-1, weight_shape[1])

    def bias_gradient(self, grad_output: Tensor) -> Tensor:
        """Return the gradient of the bias, (out,)."""
        return grad_output.reshape(-1, grad_output.shape[-1]).sum(0)

    def macs(self, weight_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-accumulates of one sample, whose output has shape (..., out)."""
        return math.prod(output_shape) * weight_shape[1]


@dataclass(frozen=True)
class ConvOp:
    """A 1-D or 2-D convolution with W (out, in / groups, *kernel) and x (n, in, *places); depthwise if there are `in` groups."""

    kind: ClassVar[str] = "conv"
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer's output."""
        if x.dim() != 2 + len(self.stride):
            places = "length" if len(self.stride) == 1 else "height, width"
            raise ValueError(f"a quantised convolution needs a batch (n, channels, {places}), got shape {tuple(x.shape)}")
        convolve = F.conv1d if len(self.stride) == 1 else F.conv2d
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def input_gradient(self, x_shape: Sequence[int], weight: Tensor, grad_output: Tensor) -> Tensor:
        """Return the error for the layer before, shaped as x."""
        x = _unread(grad_output, x_shape)
        return self._backward(grad_output, x, weight, (True, False, False))[0]

    def weight_gradient(self, x: Tensor, weight_shape: Sequence[int], grad_output: Tensor) -> Tensor:
        """Return the gradient of the weight, summed over the batch."""
        weight = _unread(grad_output, weight_shape)
        return self._backward(grad_output, x, weight, (False, True, False))[1]

    def bias_gradient(self, grad_output: Tensor) -> Tensor:
        """Return the gradient of the bias, (out,)."""
        return grad_output.sum((0, *range(2, grad_output.dim())))

    def macs(self, weight_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-accumulates of one sample, whose output has shape (out, *places)."""
        return math.prod(output_shape) * math.prod(weight_shape[1:])

    def _backward(
        self, grad_output: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        none = (0,) * len(self.stride)
        gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            grad_output, x, weight, None, self.stride, self.padding, self.dilation, False, none, self.groups, wanted
        )
        return gradients


@dataclass(frozen=True)
class EmbeddingOp:
    """y = W[x] with W (vocabulary, features) and whole numbers x of any shape, through which no error passes."""

    kind: ClassVar[str] = "embedding"

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the rows that x names, (*x, features)."""
        return F.embedding(x, weight)

    def input_gradient(self, x_shape: Sequence[int], weight: Tensor, grad_output: Tensor) -> Tensor:
        """Return zeros: the output does not change with an index until it is another one."""
        return grad_output.new_zeros(tuple(x_shape))

    def weight_gradient(self, x: Tensor, weight_shape: Sequence[int], grad_output: Tensor) -> Tensor:
        """Return the gradient of the weight: each row's errors, summed over the places that it was read at."""
        rows = grad_output.reshape(-1, weight_shape[1])
        return rows.new_zeros(tuple(weight_shape)).index_add_(0, x.reshape(-1), rows)

    def bias_gradient(self, grad_output: Tensor) -> Tensor:
        """Return what a constant added to every row would get, (features,)."""
        return grad_output.reshape(-1, grad_output.shape[-1]).sum(0)

    def macs(self, weight_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """None: it reads rows and multiplies nothing. Only its update touches every weight."""
        return 0


def _unread(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor of which only shape and layout will be read: channels last as `like`, or else of a single number."""
    if like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        return torch.empty(tuple(shape), dtype=like.dtype, memory_format=torch.channels_last)
    return like.new_empty(1).expand(*shape)


Op = LinearOp | ConvOp | EmbeddingOp
OPERATED = frozenset({nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding})


def op_of(module: nn.Module) -> Op | None:
    """Return the operation of a layer that can be quantised, or None.

    Only the plain classes: a subclass may compute something else, and a lazy layer has no shape yet.
    """
    if type(module) is nn.Linear:
        return LinearOp()
    if isinstance(module, nn.Conv1d | nn.Conv2d) and type(module) in {nn.Conv1d, nn.Conv2d} and module.padding_mode == "zeros":
        padding = _padding(module)
        return None if padding is None else ConvOp(tuple(module.stride), padding, tuple(module.dilation), module.groups)
    if type(module) is nn.Embedding and module.padding_idx is None and module.max_norm is None:
        return None if module.sparse or module.scale_grad_by_freq else EmbeddingOp()
    return None


def _padding(conv: nn.Conv1d | nn.Conv2d) -> tuple[int, ...] | None:
    """Return the padding on both sides, or None for an even kernel under `same`, which pads one side more."""
    if conv.padding == "valid":
        return (0,) * len(conv.stride)
    if conv.padding == "same":
        both = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return None if any(total % 2 for total in both) else tuple(total // 2 for total in both)
    return tuple(int(side) for side in conv.padding)


@dataclass(frozen=True)
class BackwardRule:
    """How one layer's gradients are computed from what its forward pass saved, and what that costs: exact backpropagation.

    A subclass may save less and compute less; `clients/backward` holds them. Costs are of one sample, given shapes with a batch
    of one.
    """

    @property
    def part(self) -> Slice | None:
        """The slice of the weight that trains; None: all of it."""
        return None

    @property
    def scaled(self) -> bool:
        """Whether a step is taken in real units; if not, codes move by their own gradient."""
        return True

    def save(self, op: Op, x: Tensor) -> tuple[Tensor, ...]:
        """Return what is kept from the forward pass for the backward pass.

        Asked only of a layer whose weight trains; of any other nothing is kept. Where activations are quantised, x lies on their
        grid, and the float tensors that are returned here are kept as codes.
        """
        return (x,)

    def gradients(
        self, op: Op, saved: tuple[Tensor, ...], x_shape: torch.Size, weight: TrainedWeight, error: Tensor, of_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the error for the layer before, if it is wanted, and the gradient of the weight, if anything was saved.

        saved: empty if the weight does not train. error: of the output. The gradient is shaped like the part of the weight that
        trains, and a new tensor, as the update uses it up.
        """
        before = self.input_gradient(op, saved, x_shape, weight.dequantise(), error) if of_input else None
        return before, self.weight_gradient(op, saved, weight.shape, error) if saved else None

    def input_gradient(
        self, op: Op, saved: tuple[Tensor, ...], x_shape: torch.Size, weight: Tensor, grad_output: Tensor
    ) -> Tensor:
        """Return the error for the layer before, of shape `x_shape`."""
        return op.input_gradient(x_shape, weight, grad_output)

    def weight_gradient(self, op: Op, saved: tuple[Tensor, ...], weight_shape: torch.Size, grad_output: Tensor) -> Tensor:
        """Return the gradient of the part of the weight that trains."""
        return op.weight_gradient(saved[0], weight_shape, grad_output)

    def error_macs(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Return the MACs of the error for the layer before."""
        return op.macs(weight_shape, y_shape[1:])

    def weight_gradient_macs(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int], y_shape: Sequence[int]) -> int:
        """Return the MACs of the gradient of the weight."""
        return op.macs(weight_shape, y_shape[1:])

    def saved_numbers(self, op: Op, weight_shape: Sequence[int], x_shape: Sequence[int]) -> int:
        """Return how many numbers `save` keeps of one sample."""
        return math.prod(x_shape[1:])

    def step_macs(self, weight_shape: Sequence[int], of_input: bool) -> int:
        """Return the MACs of once a step besides the update; of_input: whether the error for the layer before is wanted."""
        return 0

    def updated(self, weight_shape: Sequence[int]) -> int:
        """Return how many weights move in a step."""
        return math.prod(weight_shape if self.part is None else self.part.shape(tuple(weight_shape)))
