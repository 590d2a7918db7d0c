"""Layers that train on one copy of their weights, and `quantise`, which puts them into any model.

Forward and backward dequantise the layer for as long as it computes. As soon as its gradient exists it is handed to the
optimiser, which moves the codes; nothing of the layer's size outlives that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedapt.quant.grid import GridOptions
from fedapt.quant.ops import BackwardRule, Op, op_of
from fedapt.quant.rounding import Rounding
from fedapt.quant.weight import Weight, quantise_tensor


class _Compute(torch.autograd.Function):
    """The bridge to autograd: `anchor` is an empty tensor that makes autograd call backward for the first layer too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, anchor: Tensor, layer: QuantisedLayer) -> Tensor:
        ctx.layer, ctx.x_shape = layer, x.shape
        ctx.save_for_backward(*layer.rule.save(layer.op, x))
        layer.pending += 1
        return layer.op.forward(x, layer.weight.dequantise(), bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        layer, saved = ctx.layer, ctx.saved_tensors
        # The error goes back through the weights of the forward pass, so it is computed before they move.
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = layer.rule.input_gradient(layer.op, saved, ctx.x_shape, layer.weight.dequantise(), grad_output)
        if layer.trainable:
            layer.receive(layer.rule.weight_gradient(layer.op, saved, layer.weight.shape, grad_output))
        grad_bias = layer.op.bias_gradient(grad_output) if ctx.needs_input_grad[1] else None
        return grad_x, grad_bias, None, None


class QuantisedLayer(nn.Module):
    """A Linear or Conv2d whose weight is one `Weight`; its bias stays a float parameter.

    `on_gradient(layer, gradient)` is set by the optimiser and called once a step, when the gradient is complete; a layer that
    is not `trainable` only passes the error on.
    """

    def __init__(self, name: str, op: Op, weight: Weight, bias: nn.Parameter | None, rule: BackwardRule, trainable: bool) -> None:
        super().__init__()
        self.name, self.op, self.weight, self.rule, self.trainable = name, op, weight, rule, trainable
        self.bias = bias
        self.anchor = torch.zeros(0, requires_grad=True)
        self.on_gradient: Callable[[QuantisedLayer, Tensor], None] | None = None
        self.pending = 0
        self._sum: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Compute as the layer that this one replaced, on the dequantised weight."""
        if not torch.is_grad_enabled():
            return self.op.forward(x, self.weight.dequantise(), self.bias)
        result: Tensor = _Compute.apply(x, self.bias, self.anchor, self)  # type: ignore[no-untyped-call]
        return result

    def begin_step(self) -> None:
        """Forget forward passes that were never followed by a backward pass."""
        self.pending, self._sum = 0, None

    def receive(self, gradient: Tensor) -> None:
        """Take one use's gradient; a layer that is used several times in a step moves after the last of them."""
        self.pending -= 1
        self._sum = gradient if self._sum is None else self._sum.add_(gradient)
        if self.pending == 0:
            self.end_step()

    def end_step(self) -> None:
        """Hand over the gradient, if there is one: after the last use, or at the end of a step in which some use had no error."""
        if self._sum is None:
            return
        if self.on_gradient is None:
            raise RuntimeError(
                f"{self.name}: a quantised layer keeps no gradient; create a SingleCopySGD before calling backward()"
            )
        total, self._sum = self._sum, None
        self.on_gradient(self, total)

    def extra_repr(self) -> str:
        """Show the shape and the bits."""
        return f"{self.op.kind}, {tuple(self.weight.shape)}, bits={self.weight.bits}"


class Quantised(NamedTuple):
    """What `quantise` made of a model: its quantised layers by name, and those that stay float, by name and class."""

    layers: dict[str, QuantisedLayer]
    kept_float: dict[str, str]


def quantisable(model: nn.Module) -> list[str]:
    """Return the names of the layers that `quantise` would replace, in the model's order; a layer used in several places counts
    once.

    A weight that two modules share (a tied embedding, say) stays float: as codes it would be two copies that drift apart.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return [name for name, module in model.named_modules() if op_of(module) is not None and owners[id(module.weight)] == 1]


def quantise(
    model: nn.Module,
    bits: int | Mapping[str, int],
    *,
    grid: GridOptions | None = None,
    rounding: Rounding = "stochastic",
    generator: torch.Generator | None = None,
    rule: BackwardRule | None = None,
) -> Quantised:
    """Replace, in place, every Linear and Conv2d of a model by a layer that holds one quantised copy of the weight.

    bits: one width for all layers, or one for each name in `quantisable(model)`; 32 keeps that layer's weight in float.
    rule: how gradients are computed; exact backpropagation unless given.

    Layers that cannot be quantised stay as they are and are named in the result. Raises ValueError for bits outside 2..16 and 32.
    """
    names = quantisable(model)
    widths = dict.fromkeys(names, bits) if isinstance(bits, int) else dict(bits)
    if missing := set(names) ^ set(widths):
        raise ValueError(f"bits are given for other layers than the model has: {', '.join(sorted(missing))}")
    generator = generator or torch.Generator().manual_seed(0)
    modules = dict(model.named_modules())
    layers = {}
    for name in names:
        module = modules[name]
        op = op_of(module)
        assert op is not None
        weight = quantise_tensor(module.weight, widths[name], grid or GridOptions(), rounding, generator)
        layers[name] = QuantisedLayer(name, op, weight, module.bias, rule or BackwardRule(), module.weight.requires_grad)
    _replace(model, {modules[name]: layer for name, layer in layers.items()})
    kept = {name: type(module).__name__ for name, module in modules.items() if name not in layers and _owns_parameters(module)}
    return Quantised(layers, kept)


def _replace(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put the replacements wherever the old modules stand, also where one module stands in several places."""
    if model in replacements:
        raise ValueError("the model is itself a single layer; wrap it in torch.nn.Sequential before quantising")
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
        if isinstance(parent, nn.TransformerEncoderLayer):
            # Its fused inference path reads the weights of its layers behind their backs; 0 makes it call them instead.
            parent.activation_relu_or_gelu = 0


def _owns_parameters(module: nn.Module) -> bool:
    return not isinstance(module, QuantisedLayer) and any(True for _ in module.parameters(recurse=False))
