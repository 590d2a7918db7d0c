"""A model without weights of its own: quantised models move in and out of it, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from fedapt.errors import DamagedData
from fedapt.quant.grid import FLOAT_BITS, GridOptions
from fedapt.quant.half import Compute
from fedapt.quant.layers import Quantised, QuantisedLayer, quantise
from fedapt.quant.operands import OperandWidths
from fedapt.quant.ops import OPERATED
from fedapt.quant.parts import Part
from fedapt.quant.treatment import EXACT, FROZEN, WHOLE, Module, Scheme, Treatment, Treats
from fedapt.quant.weight import FloatWeight, MasterWeight, Weight
from fedapt.quant.wire import QuantisedModel


class Skeleton:
    """A worker builds one and trains any number of clients in it, one after the other.

    factory: makes the model; its layers' weights are never allocated, as they come with the first model that moves in.
    backward: what treats its layers where a scheme names nothing else; exact backpropagation unless given. compute: as in
    `quantise`.
    """

    def __init__(
        self,
        factory: Callable[[], nn.Module],
        backward: Treats | None = None,
        operands: OperandWidths | None = None,
        compute: Compute = "float32",
    ) -> None:
        with torch.random.fork_rng(devices=[]), _without_weights():
            self.model = factory()
        self._backward, self._operands = backward, operands or OperandWidths()
        self.quantised: Quantised = quantise(self.model, FLOAT_BITS, operands=operands, with_lean=True, compute=compute)
        _make_real(self.model)
        self._floats = float_tensors(self.model)
        crossing = {id(values) for values in self._floats.values()}
        # What does not cross, such as a norm's count of batches, must not pass from one client to the next.
        self._own = [(buffer, buffer.clone()) for buffer in self.model.buffers() if id(buffer) not in crossing]
        self.modules = [_seen(name, module) for name, module in self.model.named_modules() if _holds(module)]
        self._layers_that_train = {name for name, layer in self.quantised.layers.items() if layer.trainable}
        self._floats_that_train = {id(parameter) for parameter in self.model.parameters() if parameter.requires_grad}
        trained = self._floats_that_train
        self._floats_of_whole = {name for name, values in self._floats.items() if id(values) in trained}
        self._scheme: Scheme | None = None
        self.part: Part | None = None
        self.at_once = True
        self.treat(WHOLE)

    def load(self, start: QuantisedModel, *, copies: Mapping[str, int] | None = None, grid: GridOptions | None = None) -> None:
        """Let a model move in: its weights are used as they are, not copied.

        copies: bits of the copy that a float weight trains through, by layer; grid: how those copies are laid.

        Raises DamagedData if it is not this architecture, or if a copy is wanted of what is no float weight.
        """
        layers, copies = self.quantised.layers, copies or {}
        if set(start.weights) != set(layers) or set(start.floats) != set(self._floats):
            odd = (set(start.weights) ^ set(layers)) | (set(start.floats) ^ set(self._floats))
            raise DamagedData(f"the message is for another model: {', '.join(sorted(odd))} differ")
        if unknown := set(copies) - set(layers):
            raise DamagedData(f"copies are wanted of layers that the model does not have: {', '.join(sorted(unknown))}")
        for name, layer in layers.items():
            if start.weights[name].shape != layer.weight.shape:
                raise DamagedData(
                    f"layer {name}: expected shape {tuple(layer.weight.shape)}, got {tuple(start.weights[name].shape)}"
                )
            weight = start.weights[name]
            layer.weight = _with_copy(name, weight, copies[name], grid) if name in copies else weight
        with torch.no_grad():
            for name, values in self._floats.items():
                if start.floats[name].shape != values.shape:
                    raise DamagedData(f"{name}: expected shape {tuple(values.shape)}, got {tuple(start.floats[name].shape)}")
                values.copy_(start.floats[name])
            for buffer, initial in self._own:
                buffer.copy_(initial)

    def train(self, training: bool = True) -> None:
        """Put the model into training mode, or into that of evaluation."""
        if self.model.training != training:
            self.model.train(training)

    def treat(self, scheme: Scheme) -> None:
        """Train as the scheme says until the next call, and let `part` be what of the model then trains, None for all of it.

        Call it before an optimiser is made. Frozen layers before the first that trains keep nothing and compute no gradient. A
        frozen batch norm still follows its batches: its running means have no gradient. Raises DamagedData for a module that the
        model does not have, and what the method raises that treats it.
        """
        if scheme == self._scheme:
            return
        known = {module.name: module for module in self.modules}
        backward = scheme.backward or self._backward
        treated = {**(backward.treat(self.modules) if backward else {}), **dict.fromkeys(scheme.frozen, FROZEN)}
        if unknown := treated.keys() - known.keys():
            raise DamagedData(f"the model has no modules {', '.join(sorted(unknown))} that could be trained otherwise")
        for name, module in self.model.named_modules():
            if name in known:
                self._treat(name, module, treated.get(name, EXACT))
        less = any(treatment.keeps_less for treatment in treated.values())
        for module in self.quantised.lean:
            module.on = less or self._operands.activations != FLOAT_BITS
        self._scheme, self.part, self.at_once = scheme, self._part(), backward is None or backward.at_once

    def _treat(self, name: str, module: nn.Module, treatment: Treatment) -> None:
        trains = treatment.weight or treatment.bias
        if isinstance(module, QuantisedLayer):
            module.rule, module.trainable = treatment.rule, treatment.weight and name in self._layers_that_train
            trains = treatment.bias
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(trains and id(parameter) in self._floats_that_train)

    def _part(self) -> Part | None:
        weights = {name: layer.rule.part for name, layer in self.quantised.layers.items() if layer.trainable}
        floats = {name for name, values in self._floats.items() if values.requires_grad or not isinstance(values, nn.Parameter)}
        whole = weights.keys() == self._layers_that_train and not any(weights.values())
        return None if whole and floats >= self._floats_of_whole else Part(weights, frozenset(floats))

    def unload(self) -> QuantisedModel:
        """Return the model that lives here now; its tensors are the living ones, and of a master with a copy the master."""
        weights = {name: layer.weight for name, layer in self.quantised.layers.items()}
        alone: dict[str, Weight] = {n: w.master() if isinstance(w, MasterWeight) else w for n, w in weights.items()}
        return QuantisedModel(alone, {name: values.detach() for name, values in self._floats.items()})


def _holds(module: nn.Module) -> bool:
    """Return whether a module holds something that could be trained otherwise or not at all."""
    return isinstance(module, QuantisedLayer) or any(True for _ in module.parameters(recurse=False))


def _seen(name: str, module: nn.Module) -> Module:
    if isinstance(module, QuantisedLayer):
        return Module(name, module.op, tuple(module.weight.shape), module.bias is not None)
    return Module(name, None, (), False)


def _with_copy(name: str, weight: Weight, bits: int, grid: GridOptions | None) -> MasterWeight:
    if not isinstance(weight, FloatWeight):
        raise DamagedData(f"layer {name}: a copy of {bits} bits needs a float weight as its master, got {weight.bits} bits")
    return MasterWeight(weight.values, bits, grid or GridOptions())


@contextmanager
def _without_weights() -> Iterator[None]:
    """Put the weights of layers that can be quantised on torch's meta device as soon as they are made, before they are filled.

    Building the whole model there would lose what other modules compute when they are made: tables, masks, counts.
    """

    def drop(module: nn.Module, name: str, parameter: Tensor | None) -> Tensor | None:
        if parameter is None or type(module) not in OPERATED or name != "weight" or parameter.is_meta:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(drop)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def _make_real(model: nn.Module) -> None:
    """Allocate the weights that stay float after all, such as tied ones; they are filled by the model that moves in."""
    real: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.is_meta:
                if id(parameter) not in real:
                    real[id(parameter)] = nn.Parameter(torch.zeros_like(parameter, device="cpu"), parameter.requires_grad)
                setattr(module, name, real[id(parameter)])


def float_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's float parameters and saved float buffers (running means of a norm, say) by name, in the model's order.

    One that stands in several places has the name of the first.
    """
    tensors: dict[str, Tensor] = {}
    seen = set[int]()
    for name, values in model.state_dict(keep_vars=True).items():
        if isinstance(values, Tensor) and values.is_floating_point() and id(values) not in seen:
            tensors[name] = values
            seen.add(id(values))
    return tensors


def float_arrays(model: nn.Module) -> dict[str, Tensor]:
    """Return the same without autograd, of a model before it is quantised: what the server keeps and aggregates."""
    return {name: values.detach() for name, values in float_tensors(model).items()}
