"""MuPPET: all layers climb from level to level when the updates of several rounds begin to point in different directions.

Rajagopal et al., "Multi-Precision Policy Enforced Training (MuPPET)", ICML 2020, arXiv 2006.09049. Re-implemented from the
published description. Over a window of r updates g_1 .. g_r

    GD = mean over layers of  sum_j |g_j|^2 / |sum_j g_j|^2        1/r for equal updates, 1 for orthogonal ones

S is the highest GD at the present level. At the end of each window, if GD >= S then S is GD; otherwise, if S / GD exceeds
T(e) = 1 + 1.5 exp(-0.1 e), that is a violation, and after so many of them, not necessarily in a row, the level rises.

Chosen here: the policy runs on the server, where g_j is the aggregated update of round j and costs no client anything; e counts
rounds, and the decay of T can be set, for the paper's was shaped for about a hundred epochs; the levels are 4, 6, 8, 12 and 16
bits of our own grid with one copy, where the paper goes from 8 to float with a float master and power-of-two scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from fedapt.clients.precision.evidence import Evidence
from fedapt.clients.precision.policy import Policy, Wish, moved
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS

Bits = Annotated[int, Field(ge=LOWEST_BITS, le=HIGHEST_BITS)]


class Muppet(Policy):
    """Raise all layers to the next level when the gradient diversity has fallen often enough."""

    kind: Literal["muppet"] = "muppet"
    scope: Literal["federation"] = Field(default="federation", description="the aggregated update is the same for all clients")
    levels: list[Bits] = Field(default=[4, 6, 8, 12, 16], min_length=1, description="widths, each used for all layers in turn")
    window: int = Field(default=3, ge=2, description="rounds over which diversity is taken, the paper's r")
    violations: int = Field(default=2, ge=1, description="windows beyond the threshold before the level rises, the paper's gamma")
    decay: float = Field(default=0.1, ge=0, description="how fast the threshold falls to 1, for each round")

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Ask for the first level everywhere."""
        return dict.fromkeys(layers, self.levels[0])

    def adapt(self, wish: Wish, evidence: Evidence) -> Wish:
        """Take in the round's update, and decide at the end of each window."""
        memory = dict(wish.memory) or {"round": 0, "level": 0, "highest": 0.0, "violations": 0, "sums": {}, "squares": {}}
        if not evidence.update:
            return replace(wish, why="")
        memory["round"] += 1
        sums, squares = memory["sums"], memory["squares"]
        memory["sums"] = {name: sums.get(name, 0) + update for name, update in evidence.update.items()}
        memory["squares"] = {name: squares.get(name, 0.0) + _square(update) for name, update in evidence.update.items()}
        if memory["round"] % self.window == 0:
            self._decide(memory)
            memory |= {"sums": {}, "squares": {}}
        bits = dict.fromkeys(wish.bits, self.levels[memory["level"]])
        return replace(moved(wish, bits), memory=memory)

    def _decide(self, memory: dict[str, Any]) -> None:
        diversity = gradient_diversity(memory["sums"], memory["squares"])
        if diversity >= memory["highest"]:
            memory["highest"] = diversity
        elif memory["highest"] / diversity > 1 + 1.5 * math.exp(-self.decay * memory["round"]):
            memory["violations"] += 1
            if memory["violations"] >= self.violations and memory["level"] + 1 < len(self.levels):
                memory |= {"level": memory["level"] + 1, "highest": 0.0, "violations": 0}


def gradient_diversity(sums: dict[str, np.ndarray], squares: dict[str, float]) -> float:
    """Return the mean over layers of (sum of squared norms) / (squared norm of the sum); layers that did not move count as 1."""
    ratios = []
    for name, total in sums.items():
        norm = _square(total)
        ratios.append(squares[name] / norm if norm > 0 else 1.0)
    return float(np.mean(ratios)) if ratios else 1.0


def _square(values: np.ndarray) -> float:
    flat = values.ravel().astype(np.float64)
    return float(flat @ flat)
