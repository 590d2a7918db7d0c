"""Adaptive Precision Training: a layer that cannot learn at its bits gets one more.

Huang, Luo, Zhou, "Adaptive Precision Training for Resource Constrained Devices", arXiv 2012.12775 (JPDC 2022, doi
10.1016/j.jpdc.2022.04.005). Re-implemented from the published description:

    Gavg_l = (1 / N_l) * sum_j |g_j| / eps_l          eps_l = the layer's step (its scale)

and at regular intervals a layer gets a bit more if Gavg_l < T_min, a bit less if Gavg_l > T_max; updates are truncated.

Choices that the paper leaves open, made here: it starts at 6 bits; T_min is 6 and T_max infinite; the interval is a number of
rounds, at whose end the server quantises afresh from its float model; with a scale for each channel, Gavg takes each weight's
own. Without federation (`scope: client`) a client's wish follows its own rounds only. `measure: step` compares lr * Gavg, the
mean update in codes, with T_min instead: the threshold then keeps its meaning when the learning rate changes (0.6 is then the
counterpart of 6 at lr 0.1).

With `every_epochs` or `every_batches` a client also moves its own codes within a round, as the paper's lonely device does, never
above what its budget allows if all layers rise together. It counts from the start of the round, at whose end it is the server's
turn: the wish then moves by as many bits as the clients did, if Gavg still asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from fedapt.clients.adaptation import Adaptation, Thresholds
from fedapt.clients.precision.evidence import Evidence
from fedapt.clients.precision.policy import Policy, Wish, moved
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS, Rounding


class ByGavg(Thresholds, Policy):
    """Raise or lower each layer's bits by its ability to learn, Gavg."""

    rounding: Rounding = Field(default="truncate", description="how an update of the codes is rounded")
    first_bits: int = Field(default=6, ge=LOWEST_BITS, le=HIGHEST_BITS, description="width of all codes in the first round")
    every: int = Field(default=1, ge=1, description="rounds between two adaptations at the server")
    every_epochs: int | None = Field(
        default=None, ge=1, description="local epochs between two adaptations by the client itself; null: never"
    )
    every_batches: int | None = Field(default=None, ge=1, description="the same in batches")

    @model_validator(mode="after")
    def _one_interval(self) -> Self:
        if self.every_epochs is not None and self.every_batches is not None:
            raise ValueError("set `every_epochs` or `every_batches`, not both")
        return self

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Ask for `first_bits` everywhere."""
        return dict.fromkeys(layers, self.first_bits)

    def adapt(self, wish: Wish, evidence: Evidence) -> Wish:
        """Move each observed layer by at most one bit, or by as many as a client has moved it within the round."""
        rounds = wish.memory.get("rounds", 0) + 1
        bits = dict(wish.bits)
        due = int(rounds % self.every == 0)
        for name in bits.keys() & evidence.gavg.keys():
            for _ in range(max(due, evidence.moves.get(name, 0))):
                bits[name] += self.change(evidence.gavg_at(name, bits[name]), bits[name], evidence.lr)
        return replace(moved(wish, bits), memory=wish.memory | {"rounds": rounds})

    def adaptation(self, epoch: int, highest: Mapping[str, int]) -> Adaptation | None:
        """Let the client adapt at `every_epochs` or `every_batches`, if one of them is set."""
        every = self.every_epochs * epoch if self.every_epochs else self.every_batches
        if not every:
            return None
        return Adaptation(t_min=self.t_min, t_max=self.t_max, measure=self.measure, every=every, highest=dict(highest))


class Apt(ByGavg):
    """Raise each layer's bits until it is able to learn."""

    kind: Literal["apt"] = "apt"
