"""Time of a training round on a device, as a sum of its parts: nothing is taken to overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedapt.cost.calibration import counts, predicted_s
from fedapt.cost.profiles import Profile
from fedapt.cost.trace import NOTHING, Spared, Trace


@dataclass(frozen=True)
class Time:
    """Seconds by part."""

    compute_s: float
    movement_s: float
    radio_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Sum of the parts."""
        return self.compute_s + self.movement_s + self.radio_s


def training_time(trace: Trace, batches: Sequence[int], profile: Profile, spared: Spared = NOTHING) -> Time:
    """Return the time of training, without radio; clients compute in fp32 whatever the width of the weights.

    batches: sizes of the batches that went forward, in samples; spared: what of them did not go on.

    On a calibrated machine it is what its own steps took, and movement is what its activations cost; otherwise MACs and bytes
    over the profile's rates.
    """
    samples, steps = sum(batches), len(batches)
    if profile.calibration is not None:
        work = counts(trace, samples, steps, spared)
        movement_s = profile.calibration.activation_byte_s * work["activation_byte_s"]
        return Time(predicted_s(profile.calibration.coefficients, work) - movement_s, movement_s)
    return Time(
        compute_s=trace.macs(samples, steps, spared) / profile.fp32_macs_per_s.value,
        movement_s=trace.moved_bytes(samples, steps, spared) / profile.memory_bytes_per_s.value,
    )


def radio_time(profile: Profile, downlink_bytes: int, uplink_bytes: int) -> float:
    """Return the seconds of receiving and sending so many bytes, one after the other."""
    return downlink_bytes / profile.downlink_bytes_per_s.value + uplink_bytes / profile.uplink_bytes_per_s.value
