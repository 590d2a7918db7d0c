"""Progressive fractional quantisation: few bits first, more each time the loss has stopped falling.

Fu et al., "FracTrain: Fractionally Squeezing Bit Savings Both Temporally and Spatially for Efficient DNN Training", NeurIPS 2020,
arXiv 2012.13113, its temporal half (PFQ). Re-implemented from the published description: with the losses of the last five epochs,
a turn is when all of the four earlier ones are within epsilon of the newest, relative to the mean of the first ten losses; then
the next stage begins with an empty window, and after each of the first two turns epsilon is multiplied by alpha.

Chosen here: an epoch is a round and the loss is the mean over the round's clients, so that all of them turn together; the stages
are widths of the weights in one copy (the paper's are of activations and gradients beside a float master: `activations` and
`errors` of the method are for these, and stay as they are); epsilon 0.15 and alpha 0.4, the defaults that its authors' code has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from fedapt.clients.precision.evidence import Evidence
from fedapt.clients.precision.policy import Policy, Wish, moved
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS

Bits = Annotated[int, Field(ge=LOWEST_BITS, le=HIGHEST_BITS)]
WINDOW = 5
SCALE_FROM = 10
SHRINKING_TURNS = 2


class Pfq(Policy):
    """Go to the next stage each time the loss stands still."""

    kind: Literal["pfq"] = "pfq"
    stages: list[Bits] = Field(default=[3, 4, 6, 8], min_length=1, description="widths, each used for all layers in turn")
    epsilon: float = Field(
        default=0.15, gt=0, description="a loss that moves less than this share of the first ones stands still"
    )
    alpha: float = Field(default=0.4, gt=0, le=1, description="what epsilon is multiplied by after each of the first two turns")

    def start(self, layers: Sequence[str]) -> dict[str, int]:
        """Ask for the first stage everywhere."""
        return dict.fromkeys(layers, self.stages[0])

    def adapt(self, wish: Wish, evidence: Evidence) -> Wish:
        """Take in the round's loss, and turn if the window says so."""
        if evidence.train_loss is None:
            return replace(wish, why="")
        memory = dict(wish.memory) or {"first": [], "window": [], "turns": 0}
        turns: int = memory["turns"]
        first = [*memory["first"], evidence.train_loss][:SCALE_FROM]
        window = [*memory["window"], evidence.train_loss][-WINDOW:]
        if turns + 1 < len(self.stages) and self._stands_still(window, sum(first) / len(first), turns):
            window, turns = [], turns + 1
        bits = dict.fromkeys(wish.bits, self.stages[turns])
        return replace(moved(wish, bits), memory={"first": first, "window": window, "turns": turns})

    def _stands_still(self, window: list[float], scale: float, turns: int) -> bool:
        epsilon = self.epsilon * self.alpha ** min(turns, SHRINKING_TURNS)
        return len(window) == WINDOW and all(abs(loss - window[-1]) <= epsilon * scale for loss in window[:-1])
