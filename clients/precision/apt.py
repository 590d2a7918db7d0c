"""Adaptive Precision Training: a layer that cannot learn at its bits gets one more.

Huang, Luo, Zhou, "Adaptive Precision Training for Resource Constrained Devices", arXiv 2012.12775 (JPDC 2022, doi
10.1016/j.jpdc.2022.04.005). Re-implemented from the published description:

    Gavg_l = (1 / N_l) * sum_j |g_j| / eps_l          eps_l = the layer's step (its scale)

and at regular intervals a layer gets a bit more if Gavg_l < T_min, a bit less if Gavg_l > T_max; updates are truncated.

Choices that the paper leaves open, made here: it starts at 6 bits; T_min is 6 and T_max infinite; the interval is a number of
rounds, at whose end the server can quantise afresh from its float model, and with `every_batches` a client raises and lowers
its own codes within a round; with a scale for each channel, Gavg takes each weight's own. Without federation (`scope: client`) a
client's wish follows its own rounds only. `measure: step` compares lr * Gavg, the mean update in codes, with T_min instead: the
threshold then keeps its meaning when the learning rate changes (0.6 is then the counterpart of 6 at lr 0.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from fedapt.clients.precision.evidence import Evidence
from fedapt.clients.precision.policy import Policy, Wish, moved
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS, Rounding


class ByGavg(Policy):
    """Raise or lower each layer's bits by its ability to learn, Gavg."""

    rounding: Rounding = Field(default="truncate", description="how an update of the codes is rounded")
    first_bits: int = Field(default=6, ge=LOWEST_BITS, le=HIGHEST_BITS, description="width of all codes in the first round")
    t_min: float = Field(default=6.0, ge=0, description="a layer whose Gavg is below gets one bit more")
    t_max: float | None = Field(default=None, gt=0, description="a layer whose Gavg is above gets one bit less; null: never")
    measure: Literal["gradient", "step"] = Field(default="gradient", description="compare Gavg as published, or lr * Gavg")
    every: int = Field(default=1, ge=1, description="rounds between two adaptations")

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Ask for `first_bits` everywhere."""
        return dict.fromkeys(layers, self.first_bits)

    def adapt(self, wish: Wish, evidence: Evidence) -> Wish:
        """Move each observed layer by at most one bit."""
        rounds = wish.memory.get("rounds", 0) + 1
        bits = dict(wish.bits)
        if rounds % self.every == 0:
            factor = evidence.lr if self.measure == "step" else 1.0
            for name in bits.keys() & evidence.gavg.keys():
                bits[name] += self.change(evidence.gavg_at(name, bits[name]) * factor, bits[name])
        wish = moved(wish, bits)
        wish.memory["rounds"] = rounds
        return wish

    def change(self, ability: float, bits: int) -> int:
        """Return by how many bits a layer of this ability to learn moves: one, none or minus one."""
        if ability < self.t_min:
            return int(bits < HIGHEST_BITS)
        if self.t_max is not None and ability > self.t_max:
            return -int(bits > LOWEST_BITS)
        return 0


class Apt(ByGavg):
    """Raise each layer's bits until it is able to learn."""

    kind: Literal["apt"] = "apt"
