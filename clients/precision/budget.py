"""fedapt's own policy: the bits that learning needs, and of these what the device can afford.

**The wish.** Codes are rounded stochastically, so no update is lost on average, however small. What few bits cost is noise: a
weight that should move by a hundredth of a code moves by a whole one in one step of a hundred. Two numbers of a layer say how
much of that it bears:

    u_l = lr * Gavg_l          the mean update in codes: 1 - u_l is the share of weights that underflow in a step
    e_l = Gavg_l * eps_l^2     |g| * eps: by how much the loss changes when one weight moves by one code

A layer gets a bit more if u_l < `least_step` * r_l / m, and gives one up if it would still have a quarter more than that with a
bit less (hysteresis). m updates are averaged: a step of u codes adds a variance of u * eps^2, and averaging divides it by m, so a
larger cohort needs fewer bits. r_l = max(1, sqrt(e_l / mean e)), both at one width: where a code changes the loss by four times
the mean, the layer asks for one bit more. Minimising the bits over all weights for a given noise in the loss makes e_l equal in
all layers; the mean is over weights, so small layers near the input and the output get more bits, as is usually done by hand.
No layer asks for less than `least_bits`: four cost nothing in our pilots, and three cost some of the first rounds' progress.

**The projection** takes bits where that costs least for each byte, or each joule, saved. The noise of a weight quarters with each
bit, relative to its channel's range, and all weights count alike: sensitivities learned from Gavg, N_l * e_l^2, were tried and
lost, for embeddings most, whose rows have no gradient where a client lacks their words (Banking77, 4 bits on average: 84.3 %
alike, 79 to 81 % by sensitivity). If the lowest bits do not fit, batches shrink, each applied at once because there is no
room to accumulate; then, of a pretrained model, the last convolutions' gradients are filtered; then only a part of the model
trains, the scheme that the device has room for; then all but the head freezes; and then the client is refused with the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from fedapt.clients.adaptation import Width
from fedapt.clients.precision.evidence import Evidence
from fedapt.clients.precision.policy import Policy, Wish, moved
from fedapt.quant import GridOptions

HYSTERESIS = 1.25


class Budget(Policy):
    """Bits from what each layer needs to learn, within what the device has."""

    ladder: ClassVar[tuple[str, ...]] = ("bits", "micro_batch", "filter", "sparse", "freeze")

    kind: Literal["budget"] = "budget"
    grid: GridOptions = Field(default=GridOptions(headroom=1.35), description="how codes are laid over the weights")
    least_bits: Width = Field(default=4, description="no layer asks for less, and all ask for this in the first round")
    most_bits: Width = Field(default=12, description="no layer asks for more")
    lowest_bits: Width = Field(default=3, description="the client's budget pushes no layer below")
    least_step: float = Field(
        default=0.15,
        gt=0,
        lt=10,
        description="mean update in codes that a layer of a client alone needs; more asks for more bits",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least_bits > self.most_bits:
            raise ValueError(f"`least_bits` {self.least_bits} is above `most_bits` {self.most_bits}; lower it or raise the other")
        return self

    @property
    def lowest(self) -> int:
        """The width below which no budget pushes a layer."""
        return self.lowest_bits

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Ask for `least_bits` everywhere."""
        return dict.fromkeys(layers, self.least_bits)

    def adapt(self, wish: Wish, evidence: Evidence) -> Wish:
        """Move each observed layer by at most one bit."""
        observed = [name for name in wish.bits if name in evidence.gavg]
        if not observed:
            return replace(wish, why="")
        loss_of_a_code = {name: evidence.gavg[name] * evidence.step[name] ** 2 for name in observed}
        total = sum(evidence.weights[name] for name in observed)
        mean = sum(loss_of_a_code[name] * evidence.weights[name] for name in observed) / total
        bits = dict(wish.bits)
        for name in observed:
            finer = max(1.0, math.sqrt(loss_of_a_code[name] / mean)) if mean > 0 else 1.0
            bits[name] = self._bits(name, wish.bits[name], self.least_step * finer / evidence.updates, evidence)
        return moved(wish, bits)

    def _bits(self, name: str, bits: int, needed: float, evidence: Evidence) -> int:
        if evidence.lr * evidence.gavg_at(name, bits) < needed:
            return min(bits + 1, max(bits, self.most_bits))
        lower = bits - 1
        if lower >= self.least_bits and evidence.lr * evidence.gavg_at(name, lower) >= HYSTERESIS * needed:
            return lower
        return bits
