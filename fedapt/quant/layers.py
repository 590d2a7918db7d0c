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

from fedapt.quant import half
from fedapt.quant.grid import FLOAT_BITS, GridOptions
from fedapt.quant.lean import LeanMaxPool, LeanReLU, lean
from fedapt.quant.operands import CodedTensor, OperandWidths, quantise_activations, quantise_errors
from fedapt.quant.ops import BackwardRule, ConvOp, Op, op_of
from fedapt.quant.rounding import Rounding
from fedapt.quant.weight import CodedWeight, FloatWeight, TrainedWeight, quantise_tensor


class _Compute(torch.autograd.Function):
    """The bridge to autograd: `anchor` is an empty tensor that makes autograd call backward for the first layer too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, anchor: Tensor, layer: QuantisedLayer) -> Tensor:
        ctx.layer, ctx.x_shape = layer, x.shape
        codes, x = layer.read(x)
        kept: tuple[Tensor, ...] = ()
        ctx.grids = []
        if layer.trainable:
            layer.pending += 1
            if layer.operands.activations == FLOAT_BITS and layer.gradients_in_half() is not None:
                x = x.to(torch.bfloat16)
            kept = layer.rule.save(layer.op, x)
            if layer.operands.activations != FLOAT_BITS:
                coded = [layer.coded(tensor, x, codes) for tensor in kept]
                kept = tuple(one.codes for one in coded)
                ctx.grids = [(one.scale, one.zero) for one in coded]
        ctx.save_for_backward(*kept)
        return layer.computed(x, bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        layer, saved, x_shape = ctx.layer, ctx.saved_tensors, ctx.x_shape
        rows = _with_error(grad_output, x_shape, saved) if layer.narrow else None
        if rows is not None:
            grad_output, saved = grad_output.index_select(0, rows), tuple(_rows(tensor, rows) for tensor in saved)
            x_shape = torch.Size((len(rows), *x_shape[1:]))
        error = layer.hear(grad_output)
        if layer.operands.activations != FLOAT_BITS:
            saved = tuple(CodedTensor(codes, *grid).dequantise() for codes, grid in zip(saved, ctx.grids, strict=True))
        # The error goes back through the weights of the forward pass, so it is computed before they move.
        grad_x, gradient = layer.gradients(saved, x_shape, error, ctx.needs_input_grad[0])
        if gradient is not None:
            layer.receive(gradient)
        grad_bias = layer.op.bias_gradient(error) if ctx.needs_input_grad[1] else None
        if rows is not None and grad_x is not None:
            grad_x = grad_x.new_zeros(ctx.x_shape).index_copy_(0, rows, grad_x)
        return grad_x, grad_bias, None, None


def _with_error(error: Tensor, x_shape: torch.Size, saved: tuple[Tensor, ...]) -> Tensor | None:
    """Return which rows of the first dimension have any error, or None if all or none do or something has other rows.

    A row without error adds nothing to any gradient.
    """
    count = len(error)
    if error.dim() < 2 or x_shape[0] != count or any(tensor.dim() == 0 or len(tensor) != count for tensor in saved):
        return None
    # The largest of each row is found in a third of the time that `any` takes.
    rows = error.flatten(1).abs().amax(1).nonzero().squeeze(1)
    return rows if 0 < len(rows) < count else None


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    # torch selects no uint16 by index_select.
    return tensor[rows] if tensor.dtype is torch.uint16 else tensor.index_select(0, rows)


class QuantisedLayer(nn.Module):
    """A Linear, Conv1d, Conv2d or Embedding whose weight is one `TrainedWeight`; its bias stays a float parameter.

    `on_gradient(layer, gradient)` is set by the optimiser and called once a step, when the gradient is complete; `generator` is
    the optimiser's, for errors that are quantised; `leaf`, too, where the optimiser leaves a float weight to autograd. A layer
    that is not `trainable` only passes the error on. One that is `narrow` computes its gradients from those samples alone that
    have an error.
    """

    # Set in every step or for every client, where nn.Module would look for parameters and modules: ten times as slow.
    PLAIN = frozenset({"weight", "rule", "trainable", "leaf", "generator", "on_gradient", "pending", "_sum", "narrow"})

    def __init__(
        self,
        name: str,
        op: Op,
        weight: TrainedWeight,
        bias: nn.Parameter | None,
        rule: BackwardRule,
        trainable: bool,
        operands: OperandWidths,
        compute: half.Compute = "float32",
    ) -> None:
        super().__init__()
        self.name, self.op, self.weight, self.rule, self.trainable = name, op, weight, rule, trainable
        self.bias, self.operands, self.compute = bias, operands, compute
        self.leaf: Tensor | None = None
        self.generator: torch.Generator | None = None
        self.anchor = torch.zeros(0, requires_grad=True)
        self.on_gradient: Callable[[QuantisedLayer, Tensor], None] | None = None
        self.pending = 0
        self._sum: Tensor | None = None
        self.narrow = False

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute."""
        if name in self.PLAIN:
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def is_plain(self) -> bool:
        """Whether autograd itself computes what this layer's rule does, to the last bit and in the memory that is predicted.

        A convolution's bias gradient has other last bits there.
        """
        floats = self.operands.activations == self.operands.errors == FLOAT_BITS and isinstance(self.weight, FloatWeight)
        return floats and not self.narrow and type(self.rule) is BackwardRule and not isinstance(self.op, ConvOp)

    def forward(self, x: Tensor) -> Tensor:
        """Compute as the layer that this one replaced, on the dequantised weight.

        What nobody will ask for a gradient stays out of autograd and keeps nothing: evaluation, and a frozen first layer.
        """
        if self.leaf is not None:
            return self.op.forward(x, self.leaf, self.bias)
        wanted = self.trainable or x.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if not (wanted and torch.is_grad_enabled()):
            return self.computed(self.read(x)[1], self.bias)
        result: Tensor = _Compute.apply(x, self.bias, self.anchor, self)  # type: ignore[no-untyped-call]
        return result

    def in_half(self) -> CodedWeight | None:
        """Return the codes that the output is computed from in bf16, or None if it is in float32."""
        return half.codes_in_half(self.op, self.weight) if self.compute == "bfloat16" else None

    def gradients_in_half(self) -> CodedWeight | None:
        """Return the same for the gradients."""
        return self.in_half() if half.follows(self.rule) else None

    def computed(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output for an input as `read` returns it, or as bf16 rounds that."""
        codes = self.in_half()
        if codes is None:
            return self.op.forward(x, self.weight.dequantise(), bias)
        return half.forward(self.op, x, codes, bias)

    def gradients(
        self, saved: tuple[Tensor, ...], x_shape: torch.Size, error: Tensor, of_input: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return what the layer's rule does: the error for the layer before, if it is wanted, and the gradient of the weight."""
        codes = self.gradients_in_half()
        if codes is None:
            return self.rule.gradients(self.op, saved, x_shape, self.weight, error, of_input)
        return half.gradients(self.rule, self.op, saved, x_shape, codes, error, of_input)

    def read(self, x: Tensor) -> tuple[CodedTensor | None, Tensor]:
        """Return the codes of an input, if it is quantised, and what the layer computes with; indices are as they are."""
        if self.operands.activations == FLOAT_BITS or not x.is_floating_point():
            return None, x
        return quantise_activations(x.detach(), self.operands.activations)

    def coded(self, kept: Tensor, x: Tensor, codes: CodedTensor | None) -> CodedTensor:
        """Return what the rule keeps as codes: x as those that it was computed from, another float tensor as its own."""
        if codes is None or not kept.is_floating_point():
            return CodedTensor(kept)
        return codes if kept is x else quantise_activations(kept, self.operands.activations)[0]

    def hear(self, error: Tensor) -> Tensor:
        """Return the error that both gradients are computed from."""
        if self.operands.errors == FLOAT_BITS:
            return error
        if self.generator is None:
            raise RuntimeError(f"{self.name}: an optimiser draws what rounds errors; create a SingleCopySGD before backward()")
        return quantise_errors(error, self.operands.errors, self.generator)

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
    """What `quantise` made of a model: its quantised layers by name, and those that stay float, by name and class.

    lean: the ReLU and max pooling modules that keep little as long as they are on.
    """

    layers: dict[str, QuantisedLayer]
    kept_float: dict[str, str]
    lean: list[LeanReLU | LeanMaxPool]


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
    operands: OperandWidths | None = None,
    with_lean: bool = False,
    compute: half.Compute = "float32",
) -> Quantised:
    """Replace, in place, every layer of a model that has an operation by one that holds one quantised copy of the weight.

    bits: one width for all layers, or one for each name in `quantisable(model)`; 32 keeps that layer's weight in float.
    rule: how gradients are computed; exact backpropagation unless given.
    operands: widths of activations and errors; float unless given. With quantised activations, the ReLU and max pooling modules
    of the model are replaced too, by ones that keep as little; with_lean: also without, but then those are off.
    compute: what layers with codes of at most 8 bits multiply in; see `fedapt/quant/half.py`.

    Layers that cannot be quantised stay as they are and are named in the result. Raises ValueError for bits outside 2..16 and 32.
    """
    names = quantisable(model)
    widths = dict.fromkeys(names, bits) if isinstance(bits, int) else dict(bits)
    if missing := set(names) ^ set(widths):
        raise ValueError(f"bits are given for other layers than the model has: {', '.join(sorted(missing))}")
    generator, operands, rule = generator or torch.Generator().manual_seed(0), operands or OperandWidths(), rule or BackwardRule()
    modules = dict(model.named_modules())
    layers = {}
    for name in names:
        module = modules[name]
        op = op_of(module)
        assert op is not None
        weight = quantise_tensor(module.weight, widths[name], grid or GridOptions(), rounding, generator)
        bias = getattr(module, "bias", None)
        layers[name] = QuantisedLayer(name, op, weight, bias, rule, module.weight.requires_grad, operands, compute)
    replacements: dict[nn.Module, nn.Module] = {modules[name]: layer for name, layer in layers.items()}
    small: dict[nn.Module, LeanReLU | LeanMaxPool] = {}
    if with_lean or operands.activations < FLOAT_BITS:
        small = {module: one for module in modules.values() if (one := lean(module)) is not None}
    for one in small.values():
        one.on = operands.activations < FLOAT_BITS
    _replace(model, replacements | small)
    kept = {name: type(module).__name__ for name, module in modules.items() if name not in layers and _owns_parameters(module)}
    return Quantised(layers, kept, list(small.values()))


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
