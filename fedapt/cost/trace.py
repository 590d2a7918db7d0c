"""What one training step does, layer by layer: the only thing that energy, time and memory are computed from.

A method that computes gradients in another way (filtered, sparse, pruned) has other rules, and is charged for what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedapt.cost.peaks import NO_PEAKS, Peaks
from fedapt.cost.saved import SavedBytes
from fedapt.cost.shapes import LayerShape
from fedapt.quant.grid import FLOAT_BITS, HIGHEST_BITS, LOWEST_BITS
from fedapt.quant.operands import OperandWidths

WIDTHS = (*range(LOWEST_BITS, HIGHEST_BITS + 1), FLOAT_BITS)
FLOATS = OperandWidths()
# A grid has a scale and a zero for each channel; an update reads the scale alone.
SCALE_BITS = 32
GRID_BITS = 64
BACKWARD = frozenset({"error", "weight_gradient"})


@dataclass(frozen=True)
class Op:
    """One operation of a step. macs: for one sample; of an update, the parameters that it touches, once a step.

    score: what chooses, once a step, which gradients are computed.

    weight_bits: of the layer's weights, which the papers take for the width of the whole operation.
    saved_numbers: of one sample, what is kept of the layer's input for this operation.
    """

    layer: str
    kind: Literal["forward", "error", "weight_gradient", "score", "update"]
    macs: int
    weight_bits: int
    saved_numbers: int = 0

    def operand_bits(self, operands: OperandWidths) -> tuple[int, int]:
        """Return the widths of the two numbers that are really multiplied; an update multiplies a gradient, which is float."""
        match self.kind:
            case "forward":
                return self.weight_bits, operands.activations
            case "error":
                return self.weight_bits, operands.errors
            case "weight_gradient":
                return operands.activations, operands.errors
            case "score" | "update":
                return self.weight_bits, FLOAT_BITS

    @property
    def once(self) -> bool:
        """Whether it is done once a step, whatever the batch."""
        return self.kind in {"score", "update"}


@dataclass(frozen=True)
class Spared:
    """What a sample filter has spared of some training, and what it cost itself.

    unseen: samples that did not go forward, which are not counted as samples of a batch at all; samples: that went forward and
    not backward; steps: batches that went forward, and after which nothing moved; macs: of the filter itself, of floats.
    """

    unseen: int = 0
    samples: int = 0
    steps: int = 0
    macs: int = 0


NOTHING = Spared()


@dataclass(frozen=True)
class LayerTrace:
    """One layer at a width, and what a step does with it. master: whether its codes are a copy of a float master."""

    shape: LayerShape
    bits: int
    ops: tuple[Op, ...]
    master: bool = False
    operands: OperandWidths = FLOATS

    @property
    def scales(self) -> int:
        """Scales that are stored, each with a zero: a float weight has none."""
        return 0 if self.bits == FLOAT_BITS else self.shape.scales

    @property
    def has_copy(self) -> bool:
        """Whether there are a master and its copy: a weight that is float anyway needs no copy."""
        return self.master and self.bits != FLOAT_BITS

    @cached_property
    def sample_macs(self) -> int:
        """MACs of one sample."""
        return sum(op.macs for op in self.ops if not op.once)

    @cached_property
    def backward_macs(self) -> int:
        """MACs of one sample's backward pass."""
        return sum(op.macs for op in self.ops if op.kind in BACKWARD)

    @cached_property
    def step_macs(self) -> int:
        """MACs of one step's update, whatever its batch, and of what it is chosen by."""
        return sum(op.macs for op in self.ops if op.once)

    @cached_property
    def moved_bits(self) -> int:
        """Bits of parameters moved in one step.

        Everything the layer computes with is read by the forward pass, and again by the backward pass if the layer does anything
        in it; what is updated is read and written once more. A whole layer of k bits so moves 4k bits a weight, 128 bits a float
        parameter, and for each scale with its zero 160 bits, as an update reads the scale alone. Where a float master is updated
        it is the master that is read and written, and the copy is only written: 3k + 64 bits a weight, 88 at 8 bits. The papers
        charge the first layer alike, although no error passes through it.
        """
        kinds = {op.kind for op in self.ops}
        passes = ("forward" in kinds) + bool(kinds & BACKWARD)
        held = self.held_bits
        updated = sum(op.macs * self._updated_bits(op) for op in self.ops if op.kind == "update")
        return passes * held + updated + (SCALE_BITS * self.scales if self.shape.backward.weights and "update" in kinds else 0)

    @cached_property
    def held_bits(self) -> int:
        """Bits of what the layer computes with: moved once in each pass."""
        return self.shape.weights * self.bits + GRID_BITS * self.scales + FLOAT_BITS * self.shape.float_parameters

    def _updated_bits(self, op: Op) -> int:
        if self.has_copy and op.weight_bits == self.bits:
            return 2 * FLOAT_BITS + self.bits
        return 2 * op.weight_bits


@dataclass(frozen=True)
class Trace:
    """One step of the whole model; see `SavedBytes` and `Peaks` for the bytes.

    mixes: whether a batch norm spreads the error of a sample over its batch: then all of it goes backward, or nothing.
    priced: what `energy` has found out about it.
    """

    layers: tuple[LayerTrace, ...]
    saved_bytes_per_sample: int
    saved_bytes_fixed: int
    input_bytes_per_sample: int
    peaks: Peaks = field(default=NO_PEAKS, compare=False)
    mixes: bool = field(default=False, compare=False)
    priced: dict[tuple[str, str], tuple[float, float, float]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def not_backward(self, spared: Spared) -> int:
        """Return how many of the samples that went forward did not go backward."""
        return 0 if self.mixes else spared.samples

    def macs(self, samples: int, steps: int, spared: Spared = NOTHING) -> int:
        """Return the MACs of training on so many samples in so many steps, updates included.

        samples, steps: that went forward; spared: what of them did not go on.
        """
        backward = self._backward_macs * self.not_backward(spared)
        return samples * self._sample_macs - backward + (steps - spared.steps) * self._step_macs + spared.macs

    def moved_bytes(self, samples: int, steps: int, spared: Spared = NOTHING) -> float:
        """Return the bytes of parameters and activations moved; arguments as in `macs`."""
        parameters = (steps - spared.steps) * self._moved_bits / 8 + spared.steps * self._held_bits / 8
        return parameters + self.moved_activation_bytes(samples, steps, spared)

    def moved_activation_bytes(self, samples: int, steps: int, spared: Spared = NOTHING) -> int:
        """Return the part that no width changes: what is kept for the backward pass is written and read, an input read twice.

        Of samples that do not go backward it is written and not read, and so is what a batch keeps that does not.
        """
        a_sample = self.saved_bytes_per_sample + self.input_bytes_per_sample
        unread = self.not_backward(spared) * a_sample + spared.steps * self.saved_bytes_fixed
        return 2 * (samples * a_sample + steps * self.saved_bytes_fixed) - unread

    @cached_property
    def coded(self) -> NDArray[np.bool_]:
        """Which of the layers of `peaks` hold codes."""
        bits = {layer.shape.name: layer.bits for layer in self.layers}
        return np.array([bits[name] != FLOAT_BITS for name in self.peaks.layers], np.bool_)

    @cached_property
    def _sample_macs(self) -> int:
        return sum(layer.sample_macs for layer in self.layers)

    @cached_property
    def _backward_macs(self) -> int:
        return sum(layer.backward_macs for layer in self.layers)

    @cached_property
    def _held_bits(self) -> int:
        return sum(layer.held_bits for layer in self.layers)

    @cached_property
    def _step_macs(self) -> int:
        return sum(layer.step_macs for layer in self.layers)

    @cached_property
    def _moved_bits(self) -> int:
        return sum(layer.moved_bits for layer in self.layers)


def ops_of(shape: LayerShape, bits: int) -> tuple[Op, ...]:
    """Return what a step does with a layer; float parameters are updated at 32 bits.

    A frozen layer runs forward, and passes the error on if something before it is trained.
    """
    backward = shape.backward
    ops = [Op(shape.name, "forward", shape.macs, bits)]
    if shape.trainable_before:
        ops.append(Op(shape.name, "error", backward.error_macs, bits))
    if shape.trainable and (backward.weights or not shape.weights):
        ops.append(Op(shape.name, "weight_gradient", backward.weight_gradient_macs, bits, backward.saved_numbers))
    if backward.step_macs:
        ops.append(Op(shape.name, "score", backward.step_macs, bits))
    if backward.weights:
        ops.append(Op(shape.name, "update", backward.weights, bits))
    if backward.floats:
        ops.append(Op(shape.name, "update", backward.floats, FLOAT_BITS))
    return tuple(ops)


def trace_layer(shape: LayerShape, bits: int, master: bool = False, operands: OperandWidths = FLOATS) -> LayerTrace:
    """Return the trace of one layer; see `LayerTrace`."""
    return LayerTrace(shape, bits, ops_of(shape, bits), master, operands)


def trace_step(
    shapes: tuple[LayerShape, ...],
    bits: Mapping[str, int],
    saved: SavedBytes,
    peaks: Peaks = NO_PEAKS,
) -> Trace:
    """Return the trace of one step.

    bits: width of the weights by layer; a layer that is not named is float.

    Raises ValueError for a layer that the model does not have or that cannot be quantised, and for a width that is none of
    `WIDTHS`.
    """
    check_bits(shapes, bits)
    layers = tuple(trace_layer(shape, bits.get(shape.name, FLOAT_BITS)) for shape in shapes)
    return Trace(layers, saved.per_sample, saved.fixed, saved.input_per_sample, peaks)


def check_bits(shapes: tuple[LayerShape, ...], bits: Mapping[str, int]) -> None:
    """Raise ValueError if widths are given for layers that do not exist or cannot be quantised, or are none of `WIDTHS`."""
    if unknown := set(bits) - {shape.name for shape in shapes if shape.kind != "float"}:
        raise ValueError(f"bits are given for layers that the model cannot quantise: {', '.join(sorted(unknown))}")
    if odd := {name: width for name, width in bits.items() if width not in WIDTHS}:
        raise ValueError(f"weights have {LOWEST_BITS} to {HIGHEST_BITS} bits, or {FLOAT_BITS} for float, got {odd}")
