"""Energy of a training round: arithmetic, movement of parameters and activations, radio.

Three tables price a MAC relative to an fp32 MAC; the profile prices the fp32 MAC itself at the level of the board, so the
tables only say what narrower widths save. Two accounts are kept. "weights" counts as the published accounts of APT and RCT seem
to: the other operand is taken to be as wide as the weight. "operands" counts both numbers that are multiplied: a 4-bit weight
that meets a float activation costs a float MAC. Float layers count at 32 bits.

Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014: 45 nm, picojoules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from fedapt.cost.memory import training_memory
from fedapt.cost.profiles import Profile
from fedapt.cost.trace import BACKWARD, NOTHING, LayerTrace, Op, Spared, Trace
from fedapt.quant.grid import FLOAT_BITS

FP32_MAC_PJ = 3.7 + 0.9
INT8_MULTIPLY_PJ = 0.2
INT32_MULTIPLY_PJ = 3.1
INT32_ADD_PJ = 0.1
MULTIPLY_EXPONENT = math.log(INT32_MULTIPLY_PJ / INT8_MULTIPLY_PJ) / math.log(32 / 8)

Table = Callable[[int, int], float]
Account = Literal["weights", "operands"]


def linear(weight_bits: int, operand_bits: int) -> float:
    """Return a MAC's energy as proportional to the wider operand."""
    return max(weight_bits, operand_bits) / FLOAT_BITS


def horowitz(weight_bits: int, operand_bits: int) -> float:
    """Return an integer multiply and a 32-bit add; 32 bits are an fp32 MAC.

    The multiply is as wide as the wider operand, a power law through 8 and 32 bits.
    """
    bits = max(weight_bits, operand_bits)
    if bits == FLOAT_BITS:
        return 1.0
    multiply_pj: float = INT8_MULTIPLY_PJ * (bits / 8) ** MULTIPLY_EXPONENT
    return (multiply_pj + INT32_ADD_PJ) / FP32_MAC_PJ


def bitops(weight_bits: int, operand_bits: int) -> float:
    """Return a MAC's energy as proportional to the product of the widths; a float operand makes it a float MAC."""
    if FLOAT_BITS in (weight_bits, operand_bits):
        return 1.0
    return weight_bits * operand_bits / FLOAT_BITS**2


TABLES: dict[str, Table] = {"linear": linear, "horowitz": horowitz, "bitops": bitops}


@dataclass(frozen=True)
class Energy:
    """Joules by part."""

    compute_j: float
    movement_j: float
    radio_j: float = 0.0

    @property
    def total_j(self) -> float:
        """Sum of the parts."""
        return self.compute_j + self.movement_j + self.radio_j


def layer_energy(layer: LayerTrace, table: Table, account: Account = "weights") -> tuple[float, float]:
    """Return the fp32 MACs that cost as much as this layer: for each sample, which are its GEMMs, and for each step's update."""
    sample, step = 0.0, 0.0
    for op in layer.ops:
        macs = _op_energy(op, layer, table, account)
        sample, step = (sample, step + macs) if op.once else (sample + macs, step)
    return sample, step


def backward_energy(layer: LayerTrace, table: Table, account: Account = "weights") -> float:
    """Return the part of the samples' energy in `layer_energy` that is of the backward pass."""
    return sum(_op_energy(op, layer, table, account) for op in layer.ops if op.kind in BACKWARD)


def _op_energy(op: Op, layer: LayerTrace, table: Table, account: Account) -> float:
    left, right = op.operand_bits(layer.operands) if account == "operands" else (op.weight_bits, op.weight_bits)
    if op.kind == "update" and layer.has_copy:
        left = FLOAT_BITS
    return op.macs * table(left, right)


def training_energy(
    trace: Trace,
    batches: Sequence[int],
    profile: Profile,
    table: str = "horowitz",
    resident_bytes: int | None = None,
    account: Account = "weights",
    spared: Spared = NOTHING,
) -> Energy:
    """Return the energy of training, without radio.

    batches:        sizes of the batches that went forward, in samples; spared: what of them did not go on.
    resident_bytes: peak memory, if more than the step itself is resident; it decides on the price of movement.
    """
    samples, steps = sum(batches), len(batches)
    if resident_bytes is None:
        resident_bytes = training_memory(trace, max(batches, default=0), packed=True).total_bytes
    of_sample, of_backward, of_step = _priced(trace, table, account)
    # Where nothing is spared this is the sum of the other two, to the last bit.
    macs = samples * of_sample - trace.not_backward(spared) * of_backward + (steps - spared.steps) * of_step + spared.macs
    return Energy(
        compute_j=macs * profile.fp32_mac_energy.value,
        movement_j=trace.moved_bytes(samples, steps, spared) * movement_price(profile, resident_bytes),
    )


def _priced(trace: Trace, table: str, account: Account) -> tuple[float, float, float]:
    """Return the sums over the layers of a sample's energy, of its backward pass, and of a step's update."""
    if (table, account) not in trace.priced:
        layers = [layer_energy(layer, TABLES[table], account) for layer in trace.layers]
        backward = sum(backward_energy(layer, TABLES[table], account) for layer in trace.layers)
        trace.priced[table, account] = sum(sample for sample, _ in layers), backward, sum(step for _, step in layers)
    return trace.priced[table, account]


def movement_price(profile: Profile, resident_bytes: int) -> float:
    """Return joules for each byte moved: on-chip if everything that must be resident fits there, otherwise DRAM."""
    on_chip = resident_bytes <= profile.on_chip_memory.value
    return (profile.on_chip_energy_j_per_byte if on_chip else profile.dram_energy_j_per_byte).value


def radio_energy(profile: Profile, downlink_bytes: int, uplink_bytes: int) -> float:
    """Return the joules of receiving and sending so many bytes, at one price for both directions."""
    return (downlink_bytes + uplink_bytes) * profile.radio_j_per_byte.value
