"""The layers of a model as the cost model sees them: weights, floats, MACs and element counts, from a forward pass of one sample.

Layers with an `op` (fedapt's quantised layers), `nn.Linear` and convolutions of any dimension are counted exactly. Everything
else that holds parameters is kind "float" and charged at 32 bits: transposed convolutions and recurrent layers with the MACs
of their matrix products, norms, embeddings and whatever is unknown with one MAC for each element they touch. Layers without
parameters cost no MACs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils.hooks import RemovableHandle

Kind = Literal["linear", "conv", "embedding", "float"]


class Op(Protocol):
    """What a quantised layer says about its operation."""

    kind: Literal["linear", "conv", "embedding"]

    def macs(self, weight_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Return the MACs of one sample, given shapes without the batch."""


@dataclass(frozen=True)
class Backpropagation:
    """What the backward pass of one layer does, and what of the layer is sent back.

    error_macs, weight_gradient_macs, saved_numbers: of one sample; saved_numbers: what the layer itself keeps of its input.
    weights, floats:        how many of its weights and float parameters move in a step.
    sent_weights, sent_scales, sent_floats: how many numbers of each kind an update has.
    step_macs:              of once a step, whatever its batch, besides the update.
    """

    error_macs: int
    weight_gradient_macs: int
    saved_numbers: int
    weights: int
    floats: int
    sent_weights: int
    sent_scales: int
    sent_floats: int
    step_macs: int = 0


@dataclass(frozen=True)
class LayerShape:
    """One layer; all counts are of elements, MACs are forward and for one sample, element counts are for one sample.

    scales:           one for each output channel, or as many as the grid has; 0 for a layer that cannot be quantised.
    float_parameters: what stays in float32: bias, norm weights, running statistics; all that a "float" layer holds.
    trainable_before: whether something before it is trained, so that its input needs a gradient.
    trainable:        whether its own parameters are trained; those of a layer that never runs are not.
    groups:           into how many a convolution divides its channels.
    other:            what its backward pass does, if it is not exact backpropagation of all or of nothing.
    """

    name: str
    kind: Kind
    weights: int
    scales: int
    float_parameters: int
    macs: int
    input_elements: int
    output_elements: int
    trainable_before: bool
    trainable: bool = True
    groups: int = 1
    other: Backpropagation | None = None

    @property
    def backward(self) -> Backpropagation:
        """What its backward pass does."""
        if self.other is not None:
            return self.other
        error = self.macs if self.trainable_before else 0
        if not self.trainable:
            return Backpropagation(error, 0, 0, 0, 0, 0, 0, 0)
        sent = self.weights, self.scales, self.float_parameters
        return Backpropagation(error, self.macs, self.input_elements, self.weights, self.float_parameters, *sent)


def layer_shapes(model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[LayerShape, ...]:
    """Run one zero sample through a model and return the shapes of its layers in order of execution.

    input_shape: of one sample, without the batch; dtype: of the input (token numbers are `torch.int64`).

    A layer that runs several times is listed once, with the sum of its MACs and elements. Layers that the forward pass never
    calls are listed last, without MACs, so that no parameter is missed. The model is left as it was: it runs in evaluation
    mode, and no random number is drawn from the global stream.
    """
    names = {module: name for name, module in model.named_modules() if _holds_numbers(module)}
    seen: dict[str, LayerShape] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        shape = _shape_of(names[module], module, tensors_in((args, kwargs)), tensors_in(output))
        seen[shape.name] = _added(seen[shape.name], shape) if shape.name in seen else shape

    handles: list[RemovableHandle] = [module.register_forward_hook(record, with_kwargs=True) for module in names]
    try:
        with untouched(model), torch.enable_grad():
            model.eval()
            model(torch.zeros((1, *input_shape), dtype=dtype))
    finally:
        for handle in handles:
            handle.remove()
    idle = [_shape_of(name, module, [], []) for module, name in names.items() if name not in seen]
    return (*seen.values(), *idle)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put a model's training flags and buffers, and the global random stream, back to what they were."""
    flags = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in flags.items():
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for part in value for tensor in tensors_in(part)] if isinstance(value, (tuple, list)) else []


def _holds_numbers(module: nn.Module) -> bool:
    return hasattr(module, "op") or _own_floats(module) > 0


def _own_floats(module: nn.Module) -> int:
    own = [*module.parameters(recurse=False), *(buffer for buffer in module.buffers(recurse=False) if buffer.is_floating_point())]
    return sum(tensor.numel() for tensor in own)


def _shape_of(name: str, module: nn.Module, inputs: list[Tensor], outputs: list[Tensor]) -> LayerShape:
    elements = sum(tensor.numel() for tensor in inputs), sum(tensor.numel() for tensor in outputs)
    kind, weight_shape = _weight_of(module)
    weights = math.prod(weight_shape) if weight_shape else 0
    floats = _own_floats(module) - (0 if hasattr(module, "op") else weights)
    macs = _macs(module, inputs, outputs) if outputs else 0
    shape = LayerShape(
        name=name,
        kind=kind,
        weights=weights,
        scales=_scales(module, weight_shape),
        float_parameters=floats,
        macs=macs,
        input_elements=elements[0],
        output_elements=elements[1],
        trainable_before=any(tensor.requires_grad for tensor in inputs),
        trainable=bool(outputs) and _is_trained(module),
        groups=int(getattr(getattr(module, "op", module), "groups", 1)),
    )
    other = _backward_of(module, shape, inputs, outputs)
    return shape if other in {None, shape.backward} else replace(shape, other=other)


def _backward_of(module: Any, shape: LayerShape, inputs: list[Tensor], outputs: list[Tensor]) -> Backpropagation | None:
    """Return what the backward pass of one sample does with a module, None where that follows from the shape."""
    trained = any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    buffers = sum(buffer.numel() for buffer in module.buffers(recurse=False) if buffer.is_floating_point())
    if not hasattr(module, "op"):
        return None if shape.trainable else replace(shape.backward, sent_floats=shape.float_parameters if trained else buffers)
    if not outputs:
        # It never runs, and what never runs is sent all the same.
        return Backpropagation(0, 0, 0, 0, 0, shape.weights, shape.scales, shape.float_parameters) if module.trainable else None
    weight_shape, x, y = tuple(module.weight.shape), tuple(inputs[0].shape), tuple(outputs[0].shape)
    floats = shape.float_parameters if trained else 0
    error = module.rule.error_macs(module.op, weight_shape, x, y) if shape.trainable_before else 0
    if not module.trainable:
        return Backpropagation(error, 0, 0, 0, floats, 0, 0, floats)
    part = module.rule.part
    sent = part.shape(weight_shape) if part else weight_shape
    return Backpropagation(
        error,
        module.rule.weight_gradient_macs(module.op, weight_shape, x, y),
        module.rule.saved_numbers(module.op, weight_shape, x),
        module.rule.updated(weight_shape),
        floats,
        math.prod(sent),
        sent[0] if shape.scales == weight_shape[0] else shape.scales,
        floats,
        module.rule.step_macs(weight_shape, shape.trainable_before),
    )


def _is_trained(module: nn.Module) -> bool:
    trained = hasattr(module, "op") and bool(module.trainable)
    return trained or any(parameter.requires_grad for parameter in module.parameters(recurse=False))


def _scales(module: nn.Module, weight_shape: tuple[int, ...]) -> int:
    weight: Any = getattr(module, "weight", None)
    grid: Any = getattr(getattr(weight, "copy", weight), "grid", None)
    if grid is not None:
        return int(grid.scale.numel())
    return weight_shape[0] if weight_shape else 0


def _weight_of(module: nn.Module) -> tuple[Kind, tuple[int, ...]]:
    """Return the kind, and the shape of the weight that could be quantised: empty if there is none."""
    weight: Any = getattr(module, "weight", None)
    if hasattr(module, "op"):
        op: Op = module.op  # type: ignore[assignment]
        return op.kind, tuple(weight.shape)
    if isinstance(module, nn.Linear):
        return "linear", tuple(weight.shape)
    if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
        return "conv", tuple(weight.shape)
    return "float", ()


def _macs(module: nn.Module, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Return the forward MACs of one sample."""
    weight: Any = getattr(module, "weight", None)
    if hasattr(module, "op"):
        op: Op = module.op  # type: ignore[assignment]
        return op.macs(tuple(weight.shape), tuple(outputs[0].shape[1:]))
    if isinstance(module, _ConvTransposeNd):
        return int(inputs[0].numel() * weight[0].numel())
    if isinstance(module, (nn.Linear, _ConvNd)):
        return int(outputs[0].numel() * weight[0].numel())
    if isinstance(module, nn.RNNBase):
        steps = inputs[0].numel() // module.input_size
        return steps * sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)
    return max(sum(tensor.numel() for tensor in inputs), sum(tensor.numel() for tensor in outputs))


def _added(one: LayerShape, other: LayerShape) -> LayerShape:
    return replace(
        one,
        macs=one.macs + other.macs,
        input_elements=one.input_elements + other.input_elements,
        output_elements=one.output_elements + other.output_elements,
        trainable_before=one.trainable_before or other.trainable_before,
        other=_added_backward(one, other),
    )


def _added_backward(one: LayerShape, other: LayerShape) -> Backpropagation | None:
    """Return what the backward pass does with two uses of a layer: one update, and the gradients of both."""
    if one.other is None and other.other is None and one.trainable_before == other.trainable_before:
        return None
    first, second = one.backward, other.backward
    return replace(
        first,
        error_macs=first.error_macs + second.error_macs,
        weight_gradient_macs=first.weight_gradient_macs + second.weight_gradient_macs,
        saved_numbers=first.saved_numbers + second.saved_numbers,
        # Uses may choose other weights, but all of them only what is sent.
        weights=min(first.weights + second.weights, first.sent_weights),
        step_macs=first.step_macs + second.step_macs,
    )
