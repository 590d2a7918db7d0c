"""A machine's own seconds for each thing that a training step does, fitted to steps that it was timed at.

perf4sight (Rajagopal and Bouganis, ICCV-W 2021, arXiv 2108.05580) predicts a step from features of the network's shapes. Here
the features are those of the analytic trace, and the model is a sum with coefficients of at least 0, in seconds: it stays
readable, and more work never takes less time.

The relative error counts: rows are weighted by 1 / seconds, as a step of 1 ms matters no less than one of 100 ms.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedapt.cost.profiles import COEFFICIENTS
from fedapt.cost.trace import NOTHING, Spared, Trace
from fedapt.errors import SetupError
from fedapt.quant.grid import FLOAT_BITS


@dataclass(frozen=True)
class Point:
    """One timed step. counts: what it does, by the coefficient that prices it; seconds: how long it took."""

    family: str
    counts: Mapping[str, float]
    seconds: float


def counts(trace: Trace, samples: int, steps: int, spared: Spared = NOTHING) -> dict[str, float]:
    """Return how often each coefficient of `Calibration` is paid in training; arguments as in `Trace.macs`.

    A batch after which nothing moves is charged for all its launches.
    """
    dense, grouped, convolutions, others, coded = spared.macs, 0, 0, 0, 0
    for layer in trace.layers:
        macs = samples * layer.sample_macs - trace.not_backward(spared) * layer.backward_macs
        if layer.shape.groups > 1:
            grouped += macs
        else:
            dense += macs
        if layer.shape.kind == "conv":
            convolutions += len(layer.ops)
        else:
            others += len(layer.ops)
        coded += sum(op.macs for op in layer.ops if op.kind == "update" and op.weight_bits < FLOAT_BITS)
    return {
        "step_s": steps,
        "convolution_launch_s": steps * convolutions,
        "other_launch_s": steps * others,
        "dense_mac_s": dense,
        "grouped_mac_s": grouped,
        "activation_byte_s": trace.moved_activation_bytes(samples, steps, spared),
        "coded_weight_s": (steps - spared.steps) * coded,
    }


def predicted_s(coefficients: Mapping[str, float], work: Mapping[str, float]) -> float:
    """Return the seconds of some work, from `counts`."""
    return sum(coefficients[name] * work[name] for name in COEFFICIENTS)


def fit(points: Sequence[Point]) -> dict[str, float]:
    """Return the coefficients, none below 0, with the smallest sum of squared relative errors.

    What no point does costs nothing. Raises SetupError if scipy is not installed.
    """
    try:
        import numpy as np
        from scipy.optimize import nnls
    except ImportError:
        raise SetupError("calibrating needs scipy, which is not installed: pip install 'fedapt[sim]'") from None
    rows = np.array([[point.counts[name] / point.seconds for name in COEFFICIENTS] for point in points])
    # Counts differ by ten orders of magnitude; the solver's tolerance is absolute.
    size = rows.max(axis=0)
    size[size == 0] = 1.0
    solution, _ = nnls(rows / size, np.ones(len(points)))
    return {name: float(value) for name, value in zip(COEFFICIENTS, solution / size, strict=True)}


def relative_errors(coefficients: Mapping[str, float], points: Sequence[Point]) -> list[float]:
    """Return |predicted - measured| / measured of each point."""
    return [abs(predicted_s(coefficients, point.counts) / point.seconds - 1) for point in points]


def left_out_errors(points: Sequence[Point], judged: Sequence[Point]) -> list[float]:
    """Return the relative error of each judged point by a fit to the points of the other families alone."""
    families = {point.family for point in judged}
    others = {family: fit([point for point in points if point.family != family]) for family in families}
    return [error for point in judged for error in relative_errors(others[point.family], [point])]


def medians(errors: Sequence[float], judged: Sequence[Point]) -> dict[str, float]:
    """Return the median error of each family, in the order of the judged points."""
    families = dict.fromkeys(point.family for point in judged)
    return {
        family: statistics.median(error for error, point in zip(errors, judged, strict=True) if point.family == family)
        for family in families
    }
