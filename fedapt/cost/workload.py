"""What one step of a model under a method does, measured once on the quantised model itself: shapes, saved bytes and peaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedapt.cost.peaks import Peaks, measure_peaks
from fedapt.cost.projection import Widths
from fedapt.cost.saved import Loss, SavedBytes, saved_bytes
from fedapt.cost.shapes import LayerShape, layer_shapes, untouched
from fedapt.cost.trace import FLOATS, WIDTHS, LayerTrace, Trace, check_bits, trace_layer
from fedapt.quant.grid import FLOAT_BITS, GridOptions
from fedapt.quant.operands import OperandWidths
from fedapt.quant.parts import Part
from fedapt.quant.sgd import SingleCopySGD
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.treatment import WHOLE, Scheme, Treats
from fedapt.quant.weight import MasterWeight, TrainedWeight, quantise_tensor

# Any codes do: what a step allocates does not depend on their width.
MEASURED_BITS = 8
LEARNING_RATE = 1e-3
MOST_TRACES = 256


@dataclass(frozen=True, eq=False)
class Workload:
    """One step under a scheme. part: what of the model trains, None for all of it; master, operands: see `Workloads`;
    mixes: see `Trace`.
    """

    shapes: tuple[LayerShape, ...]
    saved: SavedBytes
    peaks: Peaks
    part: Part | None = None
    master: bool = False
    operands: OperandWidths = FLOATS
    mixes: bool = False
    _traces: dict[tuple[tuple[str, int], ...], Trace] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def layers(self) -> list[dict[int, LayerTrace]]:
        """Return the trace of each layer at each width."""
        return [{bits: trace_layer(shape, bits, self.master, self.operands) for bits in WIDTHS} for shape in self.shapes]

    def trace(self, bits: Mapping[str, int]) -> Trace:
        """Return the trace of a step; layers that are not named are float. Raises as `check_bits` does."""
        key = tuple(bits.items())
        if key not in self._traces:
            check_bits(self.shapes, bits)
            if len(self._traces) >= MOST_TRACES:
                self._traces.clear()
            layers = tuple(at[bits.get(shape.name, FLOAT_BITS)] for shape, at in zip(self.shapes, self.layers, strict=True))
            saved = self.saved
            self._traces[key] = Trace(layers, saved.per_sample, saved.fixed, saved.input_per_sample, self.peaks, self.mixes)
        return self._traces[key]

    @cached_property
    def widths(self) -> Widths:
        """Return what each layer costs at each width."""
        return Widths.of(self.layers, self.saved, self.peaks)


class Lender(Protocol):
    """What searches schemes that a client may be lent in place of its own method: one a device class, searched once."""

    def __call__(self, workloads: Workloads, device: Hashable, fits: Callable[[Scheme], bool]) -> Scheme | None:
        """Return the best scheme found that fits, None if there is none.

        device: what devices share for which one search is enough; fits: whether a device of this class has room for a scheme.
        """


@dataclass(frozen=True, eq=False)
class Workloads:
    """A model under a method, with any of its first layers frozen; measured when asked for, and only once.

    factory:     builds the float model; it may draw from the global random stream, which is put back.
    input_shape: of one sample, without the batch; dtype: of the input.
    backward:    how gradients are computed, exact backpropagation unless given.
    master:      whether codes are the copy of a float master, as in quantisation-aware training.
    proximal:    whether FedProx's pull towards the start is computed.
    begin:       the scheme that a plan starts from; lend: what searches others for a client that cannot afford it, by its name.
    """

    factory: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    backward: Treats | None = None
    operands: OperandWidths = FLOATS
    master: bool = False
    grid: GridOptions = field(default_factory=GridOptions)
    proximal: bool = False
    loss: Loss = F.cross_entropy
    begin: Scheme = WHOLE
    lend: Mapping[str, Lender] = field(default_factory=dict)
    _measured: dict[Scheme, Workload] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def pulled(self) -> Workloads:
        """The same with FedProx's pull."""
        return replace(self, proximal=True)

    def at(self, scheme: Scheme = WHOLE) -> Workload:
        """Return the workload under a scheme, one of `prefixes()` frozen perhaps."""
        if scheme not in self._measured:
            self._measured[scheme] = self._measure(scheme)
        return self._measured[scheme]

    def prefixes(self) -> tuple[tuple[str, ...], ...]:
        """Return which modules can be frozen, from none to all before the last quantised layer, in the order of execution.

        A norm is frozen with the layer that it follows.
        """
        trained = [shape for shape in self.at(self.begin).shapes if shape.trainable]
        starts = [place for place, shape in enumerate(trained) if shape.weights][1:]
        return ((), *(tuple(shape.name for shape in trained[:start]) for start in starts))

    def _measure(self, scheme: Scheme) -> Workload:
        skeleton = Skeleton(self.factory, self.backward, self.operands)
        generator = torch.Generator().manual_seed(0)
        for layer in skeleton.quantised.layers.values():
            layer.weight = self._weight(layer.weight.shape, generator)
        skeleton.treat(scheme)
        model = skeleton.model
        shapes = layer_shapes(model, self.input_shape, self.dtype)
        saved = saved_bytes(model, self.input_shape, self.dtype, self.loss)
        peaks = measure_peaks(skeleton.quantised.layers, lambda sizes: self._steps(skeleton, sizes))
        mixes = any(isinstance(module, _BatchNorm) for module in model.modules())
        return Workload(shapes, saved, peaks, skeleton.part, self.master, self.operands, mixes)

    def _weight(self, shape: torch.Size, generator: torch.Generator) -> TrainedWeight:
        values = torch.randn(shape, generator=generator).div_(math.sqrt(math.prod(shape[1:])))
        if self.master:
            return MasterWeight(values, MEASURED_BITS, self.grid)
        return quantise_tensor(values, MEASURED_BITS, self.grid, "stochastic", generator)

    @contextmanager
    def _steps(self, skeleton: Skeleton, sizes: tuple[int, ...]) -> Iterator[Callable[[int], None]]:
        model, generator = skeleton.model, torch.Generator().manual_seed(0)
        batches = {size: self._batch(model, size, generator) for size in sizes}
        pull = 1.0 if self.proximal else 0.0
        with (
            untouched(model),
            SingleCopySGD(
                model, skeleton.quantised, LEARNING_RATE, "stochastic", generator, proximal=pull, at_once=skeleton.at_once
            ) as sgd,
        ):
            model.train()

            def step(size: int) -> None:
                inputs, labels = batches[size]
                with sgd.step(observe=True):
                    self.loss(model(inputs), labels).backward()  # type: ignore[no-untyped-call]

            yield step

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
