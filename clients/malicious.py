"""Clients that lie: they train as told, and then send their update turned round or blown up.

The lie is told in code space: the model that is sent lies on the same grid as an honest one, so nothing but its direction and its
size gives it away. What would fall off the grid is clipped to its end; float parameters have no such bound.
"""

from __future__ import annotations

from torch import Tensor

from fedapt.quant.weight import CodedWeight, FloatWeight, Weight
from fedapt.quant.wire import QuantisedModel


def turned(start: QuantisedModel, end: QuantisedModel, factor: float) -> QuantisedModel:
    """Return `end` with its update, end minus start, multiplied by `factor`; -1 turns it round."""
    weights = {layer: _turned_weight(start.weights[layer], weight, factor) for layer, weight in end.weights.items()}
    return QuantisedModel(weights, {name: _turned(start.floats[name], values, factor) for name, values in end.floats.items()})


def _turned_weight(start: Weight, end: Weight, factor: float) -> Weight:
    values = _turned(start.dequantise(), end.dequantise(), factor)
    if isinstance(end, FloatWeight):
        return FloatWeight(values)
    scale, zero = end.grid.like(end.codes)
    places = (values.double() / scale.double() + zero.double()).round().clamp(0, 2**end.bits - 1)
    return CodedWeight(places.to(end.codes.dtype), end.grid)


def _turned(start: Tensor, end: Tensor, factor: float) -> Tensor:
    return (start.double() + factor * (end.double() - start.double())).float()
