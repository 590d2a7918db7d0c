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
class Conv2dOp:
    """A 2-D convolution with W (out, in / groups, height, width) and x (n, in, height, width)."""

    kind: ClassVar[str] = "conv"
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Compute the layer's output."""
        if x.dim() != 4:
            raise ValueError(
                f"a quantised convolution needs a batch of images (n, channels, height, width), got shape {tuple(x.shape)}"
            )
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def input_gradient(self, x_shape: Sequence[int], weight: Tensor, grad_output: Tensor) -> Tensor:
        """Return the error for the layer before, shaped as x."""
        x = grad_output.new_empty(1).expand(x_shape)
        return self._backward(grad_output, x, weight, (True, False, False))[0]

    def weight_gradient(self, x: Tensor, weight_shape: Sequence[int], grad_output: Tensor) -> Tensor:
        """Return the gradient of the weight, summed over the batch."""
        weight = grad_output.new_empty(1).expand(*weight_shape)
        return self._backward(grad_output, x, weight, (False, True, False))[1]

    def bias_gradient(self, grad_output: Tensor) -> Tensor:
        """Return the gradient of the bias, (out,)."""
        return grad_output.sum((0, 2, 3))

    def macs(self, weight_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-accumulates of one sample, whose output has shape (out, height, width)."""
        return math.prod(output_shape) * math.prod(weight_shape[1:])

    def _backward(
        self, grad_output: Tensor, x: Tensor, weight: Tensor, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            grad_output, x, weight, None, self.stride, self.padding, self.dilation, False, (0, 0), self.groups, wanted
        )
        return gradients


Op = LinearOp | Conv2dOp


def op_of(module: nn.Module) -> Op | None:
    """Return the operation of a layer that can be quantised, or None.

    Only the plain classes: a subclass may compute something else, and a lazy layer has no shape yet.
    """
    if type(module) is nn.Linear:
        return LinearOp()
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and (padding := _padding(module)) is not None:
        return Conv2dOp(_pair(module.stride), padding, _pair(module.dilation), module.groups)
    return None


def _padding(conv: nn.Conv2d) -> tuple[int, int] | None:
    """Return the padding on both sides, or None for an even kernel under `same`, which pads one side more."""
    if conv.padding == "valid":
        return (0, 0)
    if conv.padding == "same":
        both = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return None if any(total % 2 for total in both) else _pair([total // 2 for total in both])
    return _pair(conv.padding)  # type: ignore[arg-type]


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


class BackwardRule:
    """How one layer's gradients are computed from what its forward pass saved: exact backpropagation.

    A subclass may save less and compute less; `clients/backward` holds them.
    """

    def save(self, op: Op, x: Tensor) -> tuple[Tensor, ...]:
        """Return what is kept from the forward pass for the backward pass."""
        return (x,)

    def input_gradient(
        self, op: Op, saved: tuple[Tensor, ...], x_shape: torch.Size, weight: Tensor, grad_output: Tensor
    ) -> Tensor:
        """Return the error for the layer before, of shape `x_shape`."""
        return op.input_gradient(x_shape, weight, grad_output)

    def weight_gradient(self, op: Op, saved: tuple[Tensor, ...], weight_shape: torch.Size, grad_output: Tensor) -> Tensor:
        """Return the gradient of the weight, of shape `weight_shape`."""
        return op.weight_gradient(saved[0], weight_shape, grad_output)
