"""What one step of a model under a method does, measured once on the quantised model itself: shapes, saved bytes and peaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedapt.cost.peaks import STAGES, Peaks, measure_peaks
from fedapt.cost.projection import Widths
from fedapt.cost.saved import Loss, SavedBytes, saved_bytes
from fedapt.cost.shapes import LayerShape, layer_shapes, untouched
from fedapt.cost.trace import FLOATS, WIDTHS, LayerTrace, OpsOf, Trace, check_bits, exact_ops, trace_layer
from fedapt.quant.grid import FLOAT_BITS, GridOptions
from fedapt.quant.layers import Quantised
from fedapt.quant.operands import OperandWidths
from fedapt.quant.ops import BackwardRule
from fedapt.quant.sgd import SingleCopySGD
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.weight import MasterWeight, TrainedWeight, quantise_tensor

# Any codes do: what a step allocates does not depend on their width.
MEASURED_BITS = 8
LEARNING_RATE = 1e-3
MOST_TRACES = 256


@dataclass(frozen=True, eq=False)
class Workload:
    """One step with some layers frozen. ops_of, master, operands: see `Workloads`."""

    shapes: tuple[LayerShape, ...]
    saved: SavedBytes
    peaks: Peaks
    ops_of: OpsOf = exact_ops
    master: bool = False
    operands: OperandWidths = FLOATS
    _traces: dict[tuple[tuple[str, int], ...], Trace] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def layers(self) -> list[dict[int, LayerTrace]]:
        """Return the trace of each layer at each width."""
        return [
            {bits: trace_layer(shape, bits, self.ops_of, self.master, self.operands) for bits in WIDTHS} for shape in self.shapes
        ]

    def trace(self, bits: Mapping[str, int]) -> Trace:
        """Return the trace of a step; layers that are not named are float. Raises as `check_bits` does."""
        key = tuple(bits.items())
        if key not in self._traces:
            check_bits(self.shapes, bits)
            if len(self._traces) >= MOST_TRACES:
                self._traces.clear()
            layers = tuple(at[bits.get(shape.name, FLOAT_BITS)] for shape, at in zip(self.shapes, self.layers, strict=True))
            saved = self.saved
            self._traces[key] = Trace(layers, saved.per_sample, saved.fixed, saved.input_per_sample, self.peaks)
        return self._traces[key]

    @cached_property
    def widths(self) -> Widths:
        """Return what each layer costs at each width."""
        return Widths.of(self.layers, self.saved, self.peaks)


@dataclass(frozen=True, eq=False)
class Workloads:
    """A model under a method, with any of its first layers frozen; measured when asked for, and only once.

    factory:     builds the float model; it may draw from the global random stream, which is put back.
    input_shape: of one sample, without the batch; dtype: of the input.
    rule:        how gradients are computed, exact backpropagation unless given; ops_of: what that costs, layer by layer.
    master:      whether codes are the copy of a float master, as in quantisation-aware training.
    proximal:    whether FedProx's pull towards the start is computed.
    """

    factory: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    rule: BackwardRule | None = None
    operands: OperandWidths = FLOATS
    ops_of: OpsOf = exact_ops
    master: bool = False
    grid: GridOptions = field(default_factory=GridOptions)
    proximal: bool = False
    loss: Loss = F.cross_entropy
    _measured: dict[tuple[str, ...], Workload] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def pulled(self) -> Workloads:
        """The same with FedProx's pull."""
        return replace(self, proximal=True)

    def at(self, frozen: tuple[str, ...] = ()) -> Workload:
        """Return the workload with these modules frozen, one of `prefixes()`."""
        if frozen not in self._measured:
            self._measured[frozen] = self._measure(frozen)
        return self._measured[frozen]

    def prefixes(self) -> tuple[tuple[str, ...], ...]:
        """Return which modules can be frozen, from none to all before the last quantised layer, in the order of execution.

        A norm is frozen with the layer that it follows.
        """
        trained = [shape for shape in self.at().shapes if shape.trainable]
        starts = [place for place, shape in enumerate(trained) if shape.weights][1:]
        return ((), *(tuple(shape.name for shape in trained[:start]) for start in starts))

    def _measure(self, frozen: tuple[str, ...]) -> Workload:
        skeleton = Skeleton(self.factory, self.rule, self.operands)
        generator = torch.Generator().manual_seed(0)
        for layer in skeleton.quantised.layers.values():
            layer.weight = self._weight(layer.weight.shape, generator)
        skeleton.freeze(frozen)
        model = skeleton.model
        shapes = layer_shapes(model, self.input_shape, self.dtype)
        saved = saved_bytes(model, self.input_shape, self.dtype, self.loss)
        with untouched(model):
            model.train()
            peaks = self._peaks(model, skeleton.quantised, generator)
        return Workload(shapes, saved, peaks, self.ops_of, self.master, self.operands)

    def _weight(self, shape: torch.Size, generator: torch.Generator) -> TrainedWeight:
        values = torch.randn(shape, generator=generator).div_(math.sqrt(math.prod(shape[1:])))
        if self.master:
            return MasterWeight(values, MEASURED_BITS, self.grid)
        return quantise_tensor(values, MEASURED_BITS, self.grid, "stochastic", generator)

    def _peaks(self, model: nn.Module, quantised: Quantised, generator: torch.Generator) -> Peaks:
        batches = {size: self._batch(model, size, generator) for stage in STAGES for size in stage}
        pull = 1.0 if self.proximal else 0.0
        with SingleCopySGD(model, quantised, LEARNING_RATE, "stochastic", generator, proximal=pull) as sgd:

            def step(size: int) -> None:
                inputs, labels = batches[size]
                with sgd.step(observe=True):
                    self.loss(model(inputs), labels).backward()  # type: ignore[no-untyped-call]

            return measure_peaks(quantised.layers, step)

    def _batch(self, model: nn.Module, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random inputs, or the token 1 everywhere, and labels for what the model makes of them.

        0 is padding: where a model masks it, no error comes back, and errors of zero are not quantised.
        """
        shape = (size, *self.input_shape)
        floating = self.dtype.is_floating_point
        inputs = torch.rand(shape, generator=generator, dtype=self.dtype) if floating else torch.ones(shape, dtype=self.dtype)
        with torch.no_grad():
            output = model(inputs)
        return inputs, torch.zeros((size, *output.shape[2:]), dtype=torch.int64)
