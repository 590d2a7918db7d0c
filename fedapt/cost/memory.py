"""Peak memory of a training step on one copy of the weights, in bytes."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from fedapt.cost.trace import LayerTrace, Trace
from fedapt.quant.grid import FLOAT_BITS

CONTAINERS = (4, 8, 16, 32)


@dataclass(frozen=True)
class Memory:
    """What must be resident at the peak of a step; all in bytes, `total_bytes` is their sum.

    transient_bytes: the float weight of the largest layer, alive while it computes, and its gradient, alive until it is applied.
    """

    codes_bytes: int
    scales_bytes: int
    float_parameters_bytes: int
    saved_bytes: int
    transient_bytes: int
    batch_bytes: int
    optimiser_bytes: int
    buffers_bytes: int

    @property
    def total_bytes(self) -> int:
        """Sum of all parts."""
        return sum(astuple(self))


def training_memory(trace: Trace, batch: int, packed: bool, optimiser_bytes: int = 0, buffers_bytes: int = 0) -> Memory:
    """Return the peak memory of a step on a batch.

    packed:        codes take their bits, each layer rounded up to a byte; otherwise each code takes 4, 8, 16 or 32 bits.
    buffers_bytes: what a method keeps beside the model, such as a replay buffer.

    Not counted: the program itself, and the errors between layers, for which what was saved makes room during the backward pass.
    """
    return Memory(
        codes_bytes=sum(codes_bytes(layer, packed) for layer in trace.layers),
        scales_bytes=sum(4 * layer.scales for layer in trace.layers),
        float_parameters_bytes=sum(4 * layer.shape.float_parameters for layer in trace.layers),
        saved_bytes=batch * trace.saved_bytes_per_sample + trace.saved_bytes_fixed,
        transient_bytes=max((transient_bytes(layer) for layer in trace.layers), default=0),
        batch_bytes=batch * trace.input_bytes_per_sample,
        optimiser_bytes=optimiser_bytes,
        buffers_bytes=buffers_bytes,
    )


def codes_bytes(layer: LayerTrace, packed: bool) -> int:
    """Return what the codes of a layer take; a float weight takes 4 bytes each."""
    bits = layer.bits if packed else container(layer.bits)
    return -(-layer.shape.weights * bits // 8)


def stored_bytes(layer: LayerTrace) -> int:
    """Return what a layer takes in a message or between two steps: packed codes, scales and float parameters."""
    return codes_bytes(layer, packed=True) + 4 * (layer.scales + layer.shape.float_parameters)


def container(bits: int) -> int:
    """Return the narrowest container that holds a code."""
    return next(width for width in CONTAINERS if bits <= width)


def transient_bytes(layer: LayerTrace) -> int:
    """Return what lives only while a layer computes or is updated: its gradient, and its float weight unless that is stored."""
    updated = max((op.macs for op in layer.ops if op.kind == "update"), default=0)
    dequantised = 0 if layer.bits == FLOAT_BITS else layer.shape.weights
    return 4 * (dequantised + updated)
