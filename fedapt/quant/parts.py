"""What of a model a client trains, and therefore sends back: whole weights, slices of them, or none, and some of the floats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fedapt.quant.rounding import Rounding
from fedapt.quant.weight import CodedWeight, FloatWeight, MasterWeight, TrainedWeight, UpdateStatistics, Weight
from fedapt.quant.wire import QuantisedModel


@dataclass(frozen=True)
class Slice:
    """Some places along one dimension of a weight. dim: 0 for output channels, 1 for input channels; places: ascending."""

    dim: int
    places: tuple[int, ...]

    def of(self, values: Tensor) -> Tensor:
        """Return a copy of these places of a tensor."""
        return values.index_select(self.dim, torch.tensor(self.places))

    def of_array(self, values: np.ndarray) -> np.ndarray:
        """Return a copy of these places of an array."""
        return np.take(values, self.places, self.dim)

    def of_weight(self, weight: Weight) -> Weight:
        """Return a copy of these places of a weight, on the grid of their channels."""
        return self.of_codes(weight) if isinstance(weight, CodedWeight) else FloatWeight(self.of(weight.values))

    def of_codes(self, weight: CodedWeight) -> CodedWeight:
        """Return a copy of these places of a weight that holds codes."""
        grid = weight.grid
        if self.dim == 0 and grid.scale.numel() > 1:
            grid = grid._replace(scale=self.of(grid.scale), zero=self.of(grid.zero))
        return CodedWeight(self.of(weight.codes), grid)

    def move(
        self, weight: TrainedWeight, direction: Tensor, lr: float, rounding: Rounding, generator: torch.Generator, observe: bool
    ) -> UpdateStatistics | None:
        """Move these places of a weight, as its `apply` moves all of it; direction: of their shape, used up."""
        if isinstance(weight, CodedWeight):
            moved = self.of_codes(weight)
            statistics = moved.apply(direction, lr, rounding, generator, observe)
            _signed(weight.codes).index_copy_(self.dim, torch.tensor(self.places), _signed(moved.codes))
            return statistics
        weight.values.index_add_(self.dim, torch.tensor(self.places), direction, alpha=-lr)
        if isinstance(weight, MasterWeight):
            weight.follow(generator)
        return None

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of these places of a tensor of shape `whole`."""
        return (*whole[: self.dim], len(self.places), *whole[self.dim + 1 :])

    def index(self) -> tuple[slice | np.ndarray, ...]:
        """Return what indexes these places in an array."""
        return (*(slice(None),) * self.dim, np.array(self.places))


@dataclass(frozen=True)
class Part:
    """weights: by layer, the slice of its weight, None for all of it; floats: names of the other tensors.

    What is not named does not train and is not sent.
    """

    weights: Mapping[str, Slice | None]
    floats: frozenset[str]

    def __hash__(self) -> int:
        return hash((frozenset(self.weights.items()), self.floats))

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return what `plain` was made of; raises TypeError, ValueError or KeyError for anything else."""
        slices = {layer: some and Slice(some["dim"], tuple(some["places"])) for layer, some in plain["weights"].items()}
        return cls(slices, frozenset(plain["floats"]))

    def plain(self) -> dict[str, Any]:
        """Return it as plain data."""
        weights = {layer: some and {**asdict(some), "places": list(some.places)} for layer, some in self.weights.items()}
        return {"weights": weights, "floats": sorted(self.floats)}

    def of(self, model: QuantisedModel) -> QuantisedModel:
        """Return this part of a model; what is not sliced is the same tensor."""
        floats = {name: values for name, values in model.floats.items() if name in self.floats}
        return QuantisedModel(self.of_weights(model.weights), floats, model.correction)

    def of_weights(self, weights: Mapping[str, Weight]) -> dict[str, Weight]:
        """Return this part of some weights by layer."""
        kept = {layer: (weight, self.weights[layer]) for layer, weight in weights.items() if layer in self.weights}
        return {layer: weight if some is None else some.of_weight(weight) for layer, (weight, some) in kept.items()}

    def of_arrays(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return this part of a float model by parameter name; what is not sliced is the same array."""
        slices = self.slices(arrays)
        return {name: arrays[name] if some is None else some.of_array(arrays[name]) for name, some in slices.items()}

    def slices(self, names: Iterable[str]) -> dict[str, Slice | None]:
        """Return the slice of each tensor that is in it, by parameter name."""
        weights = {f"{layer}.weight": some for layer, some in self.weights.items()}
        return {name: weights.get(name) for name in names if name in weights or name in self.floats}

    def shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of this part of a model's tensors, by parameter name."""
        return {name: shapes[name] if some is None else some.shape(shapes[name]) for name, some in self.slices(shapes).items()}


def _signed(codes: Tensor) -> Tensor:
    """Return codes as a type that torch can copy by index, in the same memory."""
    return codes.view(torch.int16) if codes.dtype == torch.uint16 else codes
