"""A model without weights of its own: quantised models move in and out of it, one at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedapt.errors import DamagedData
from fedapt.quant.grid import LOWEST_BITS
from fedapt.quant.layers import Quantised, quantise
from fedapt.quant.ops import BackwardRule
from fedapt.quant.wire import QuantisedModel


class Skeleton:
    """A worker builds one and trains any number of clients in it, one after the other."""

    def __init__(self, model: nn.Module, rule: BackwardRule | None = None) -> None:
        self.model = model
        self.quantised: Quantised = quantise(model, LOWEST_BITS, rule=rule)
        self._floats = float_tensors(model)
        crossing = {id(values) for values in self._floats.values()}
        # What does not cross, such as a norm's count of batches, must not pass from one client to the next.
        self._own = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in crossing]

    def load(self, start: QuantisedModel) -> None:
        """Let a model move in: its codes are used as they are, not copied; raises DamagedData if it is not this architecture."""
        layers = self.quantised.layers
        if set(start.weights) != set(layers) or set(start.floats) != set(self._floats):
            odd = (set(start.weights) ^ set(layers)) | (set(start.floats) ^ set(self._floats))
            raise DamagedData(f"the message is for another model: {', '.join(sorted(odd))} differ")
        for name, layer in layers.items():
            if start.weights[name].shape != layer.weight.shape:
                raise DamagedData(
                    f"layer {name}: expected shape {tuple(layer.weight.shape)}, got {tuple(start.weights[name].shape)}"
                )
            layer.weight = start.weights[name]
        with torch.no_grad():
            for name, values in self._floats.items():
                if start.floats[name].shape != values.shape:
                    raise DamagedData(f"{name}: expected shape {tuple(values.shape)}, got {tuple(start.floats[name].shape)}")
                values.copy_(start.floats[name])
            for buffer, initial in self._own:
                buffer.copy_(initial)

    def unload(self) -> QuantisedModel:
        """Return the model that lives here now; its tensors are the living ones."""
        weights = {name: layer.weight for name, layer in self.quantised.layers.items()}
        return QuantisedModel(weights, {name: values.detach() for name, values in self._floats.items()})


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
