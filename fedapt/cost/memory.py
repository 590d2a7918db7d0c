"""Peak memory of a training step, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from fedapt.cost.trace import GRID_BITS, LayerTrace, Trace
from fedapt.quant.grid import FLOAT_BITS

# What the client really keeps codes in: bytes up to 8 bits, uint16 above.
CONTAINERS = (8, 16, 32)
FLOAT_BYTES = 4
GRID_BYTES = GRID_BITS // 8


@dataclass(frozen=True)
class Memory:
    """What is resident at the peak of a step; all in bytes, `total_bytes` is their sum.

    codes_bytes:     codes, and the float master where they are only its copy; a float weight counts as codes of 32 bits.
    scales_bytes:    a scale and a zero for each channel.
    saved_bytes:     what the forward pass keeps for the backward pass.
    transient_bytes: what else works at the peak: a float weight or a gradient, errors between layers, scratch.
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
        return sum(vars(self).values())


def training_memory(trace: Trace, batch: int, packed: bool, optimiser_bytes: int = 0, buffers_bytes: int = 0) -> Memory:
    """Return the peak memory of a step on a batch; without a batch nothing is at work.

    packed:        codes take their bits, each layer rounded up to a byte; otherwise each code takes 8, 16 or 32 bits.
    buffers_bytes: what a method keeps beside the model, such as a replay buffer.

    Not counted: the program itself.
    """
    saved = batch * trace.saved_bytes_per_sample + trace.saved_bytes_fixed if batch else 0
    working = int(trace.peaks.working_bytes(batch, trace.coded))
    return Memory(
        codes_bytes=sum(codes_bytes(layer, packed) for layer in trace.layers),
        scales_bytes=sum(GRID_BYTES * layer.scales for layer in trace.layers),
        float_parameters_bytes=sum(FLOAT_BYTES * layer.shape.float_parameters for layer in trace.layers),
        saved_bytes=saved,
        transient_bytes=max(working - saved, 0),
        batch_bytes=batch * trace.input_bytes_per_sample,
        optimiser_bytes=optimiser_bytes,
        buffers_bytes=buffers_bytes,
    )


def codes_bytes(layer: LayerTrace, packed: bool) -> int:
    """Return what the codes of a layer take, with their master if there is one; a float weight takes 4 bytes each."""
    bits = layer.bits if packed else container(layer.bits)
    return -(-layer.shape.weights * bits // 8) + (FLOAT_BYTES * layer.shape.weights if layer.has_copy else 0)


def stored_bytes(layer: LayerTrace) -> int:
    """Return what a layer takes between two steps: packed codes, scales and zeros, float parameters, and a master."""
    return codes_bytes(layer, packed=True) + GRID_BYTES * layer.scales + FLOAT_BYTES * layer.shape.float_parameters


def payload_bytes(layer: LayerTrace) -> int:
    """Return what a layer takes in a message: as `stored_bytes`, but of a master and its copy the master alone."""
    if not layer.has_copy:
        return stored_bytes(layer)
    return FLOAT_BYTES * (layer.shape.weights + layer.shape.float_parameters)


def sent_bytes(layer: LayerTrace) -> int:
    """Return what an update of a layer takes in a message: of what `payload_bytes` counts, the part that trains."""
    sent = layer.shape.backward
    bits = FLOAT_BITS if layer.has_copy else layer.bits
    scales = 0 if bits == FLOAT_BITS else sent.sent_scales
    return -(-sent.sent_weights * bits // 8) + GRID_BYTES * scales + FLOAT_BYTES * sent.sent_floats


def container(bits: int) -> int:
    """Return the narrowest container that holds a code."""
    return next(width for width in CONTAINERS if bits <= width)
