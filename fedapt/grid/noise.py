"""How much of an update is rounding: what a strategy may weigh updates by, worked out by the server from what it knows.

Nothing of it is measured but the error of an upload that the client compressed. Where the client reports a gradient's size, or
that error, it is believed: it can lie about its own weight as well as about its number of samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fedapt.admission import norm_of
from fedapt.clients.instructions import TrainReport, steps_of
from fedapt.quant import CodedWeight, Rounding
from fedapt.quant.grid import levels
from fedapt.quant.weight import Weight
from fedapt.quant.wire import QuantisedModel

if TYPE_CHECKING:
    from fedapt.grid.visit import Task

# Mean square error in codes of rounding a number with a uniform remainder.
OF_ANY_STEP = {"stochastic": 1 / 6, "nearest": 1 / 12, "truncate": 1 / 3}
# From so many codes on the remainder of a step is uniform, and the formula below loses its digits.
LONG_STEP = 1e3


def update_noise(
    task: Task,
    arrays: Mapping[str, np.ndarray],
    start: Mapping[str, CodedWeight],
    end: QuantisedModel,
    report: TrainReport,
    update: Mapping[str, np.ndarray],
) -> tuple[float, float]:
    """Return the variance of an update's rounding noise, summed over its weights, and its square relative to the update's.

    arrays, start: of the global model, and of the layers that the client was sent as codes, what trains; end: what it sent back.
    """
    link = task.instructions.link
    variance = training_variance(task, start, report)
    error = report.relative_error or 0.0
    if link.bits is not None:
        # As if the error had nothing to do with what was compressed, of which only the result is known here.
        variance += error / (1 + error) * _squared(end.weights)
    if link.send == "model":
        variance += sum(_squared_distance(weight, arrays[f"{layer}.weight"]) for layer, weight in start.items())
    if link.sends_compressed_delta:
        return variance, error
    if not variance:
        return 0.0, 0.0
    norm = norm_of(update)
    # An update of which nothing is left has lost all of itself.
    return variance, variance / norm**2 if norm else float(variance > 0)


def training_variance(task: Task, start: Mapping[str, CodedWeight], report: TrainReport) -> float:
    """Return the variance, summed over the weights, that rounding each step to codes has brought into them.

    start: the layers that were sent as codes, as far as they train.
    """
    told, plan = task.instructions, task.plan
    names = sorted(plan.bits)
    parts = [(dict(zip(names, part.bits, strict=True)), steps_of(part)) for part in report.segments]
    variance = 0.0
    for layer, weight in start.items():
        now = levels(weight.bits, told.grid)
        squares = float(weight.grid.scale.double().square().sum()) * weight.shape.numel() / weight.grid.scale.numel()
        for bits, steps in parts or [(plan.bits, report.steps)]:
            finer = levels(bits[layer], told.grid) / now
            step = told.lr * report.layers[layer].gavg * finer if layer in report.layers else math.inf
            variance += steps * squares / finer**2 * step_variance(told.rounding, step)
    return variance


def step_variance(rounding: Rounding, step: float) -> float:
    """Return the mean square error, in codes, of rounding a step of this mean length in codes.

    A step far below a code is seldom rounded up, so its variance is its length and not a sixth. Rounded stochastically a length
    u has the variance p (1 - p), p its remainder; gradients are taken to be Laplacian, so lengths are exponential with mean m,
    and the mean of p (1 - p) is m - 2 m^2 + 2 m / (exp(1 / m) - 1). Other roundings are taken at a uniform remainder.
    """
    if rounding != "stochastic" or step > LONG_STEP:
        return OF_ANY_STEP[rounding]
    if not step:
        return 0.0
    return step - 2 * step**2 + 2 * step / math.expm1(min(1 / step, 700.0))


def _squared(weights: Mapping[str, Weight]) -> float:
    return sum(float(weight.dequantise().double().square().sum()) for weight in weights.values())


def _squared_distance(weight: CodedWeight, values: np.ndarray) -> float:
    return float(np.square(weight.dequantise().numpy().astype(np.float64) - values).sum())
