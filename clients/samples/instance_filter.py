"""Early instance filtering: a tiny network guesses, before the main one runs, which samples would have a high loss.

Wu, Wang, Shi, Hu, "Enabling On-Device CNN Training by Self-Supervised Instance Filtering and Error Map Pruning", IEEE TCAD 2020,
arXiv 2007.03213, its first half (EIF). Those that are guessed high train the main network. Of the others, those whose guess is
uncertain go forward alone, so that the filter sees its mistakes. It learns from all losses that it sees: the truth is whether a
loss is above a threshold TH, the classes are weighted by 1 / R_set and 1 / (1 - R_set), and TH follows the share R of the batch
that was guessed high: 1.005 TH if R >= R_set, else 0.995 TH.

The paper leaves the filter's constants open; those here are of a public re-implementation (R_set 0.1, TH at first 0.2, high
above 0.3, uncertain above an entropy of 0.5). Chosen here: R is of each batch; the entropy is in nats; the filter is 16 ReLU
units on the input averaged down to 7 places a side, trained by plain SGD at 0.1 on the mean over what went forward, drawn as by
He et al. where a client has none, and kept on the client between its rounds, as is TH. Its MACs are charged, its traffic is not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedapt.clients.samples.filter import Filter, Session
from fedapt.errors import ScenarioError

UNITS = 16
SIDE = 7
LEARNING_RATE = 0.1
UP, DOWN = 1.005, 0.995
PARTS = ("hidden.weight", "hidden.bias", "output.weight", "output.bias", "threshold")
# No layer of a model has such a name, and other methods keep theirs by layer.
PREFIX = "samples/"


class InstanceFilter(Filter):
    """Learn from the samples that a tiny network takes for hard."""

    kind: Literal["instance_filter"] = "instance_filter"
    narrows: ClassVar[bool] = True
    exact: ClassVar[bool] = False
    keep: float = Field(default=0.1, gt=0, lt=1, description="R_set, the share of the samples that the threshold steers to")
    threshold: float = Field(default=0.2, gt=0, allow_inf_nan=False, description="loss above which a sample is hard, at first")
    decision: float = Field(default=0.3, gt=0, lt=1, description="probability of being hard above which a sample is trained on")
    entropy: float = Field(
        default=0.5, ge=0, le=1, description="entropy in nats above which a sample that is not trained on goes forward"
    )

    def open(self, keeps: dict[str, Tensor], generator: np.random.Generator) -> Session:
        """As in `Filter`."""
        return _Guess(self, keeps, generator)

    def require(self, input_shape: Sequence[int], dtype: torch.dtype) -> None:
        """Raise ScenarioError for tokens."""
        if not dtype.is_floating_point:
            raise ScenarioError(
                "method.samples: `instance_filter` judges a sample by its numbers, and these data are tokens; use `loss_topk`"
            )

    def kept_floats(self, input_shape: Sequence[int]) -> int:
        """As in `Filter`."""
        return _parameters(input_shape) + 1

    def macs(self, input_shape: Sequence[int], seen: int, forwarded: int, passes: int) -> int:
        """Forward for all; for those whose loss is seen the error of the units and both gradients; an update for each pass."""
        first, second = features(input_shape) * UNITS, UNITS
        return seen * (first + second) + forwarded * (first + 2 * second) + passes * _parameters(input_shape)


@dataclass
class _Guess(Session):
    """keeps: holds the network and the threshold."""

    options: InstanceFilter
    keeps: dict[str, Tensor]
    generator: np.random.Generator
    high: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    inputs: Tensor = field(default_factory=lambda: torch.zeros(0))
    units: Tensor = field(default_factory=lambda: torch.zeros(0))
    guess: Tensor = field(default_factory=lambda: torch.zeros(0))
    share: float = 0.0

    def screen(self, inputs: Tensor) -> Tensor:
        """Let those pass that are guessed to be hard, and those of which the guess is uncertain."""
        x = averaged(inputs)
        if PREFIX + PARTS[0] not in self.keeps:
            self._draw(x.shape[1])
        weight, bias, out_weight, out_bias, _ = self._state()
        units = F.linear(x, weight, bias).relu_()
        guess = F.linear(units, out_weight, out_bias).squeeze(1).sigmoid_()
        high = guess > self.options.decision
        entropy = torch.special.entr(guess) + torch.special.entr(1 - guess)
        passing: Tensor = (high | (entropy > self.options.entropy)).nonzero().squeeze(1)
        self.high, self.inputs, self.units, self.guess = high[passing], x[passing], units[passing], guess[passing]
        self.share = float(high.sum()) / max(len(high), 1)
        if not len(passing):
            self._steer()
        return passing

    def choose(self, losses: Tensor) -> Tensor:
        """Take those that were guessed to be hard, and learn from how it was."""
        weight, bias, out_weight, out_bias, threshold = self._state()
        hard = losses > threshold
        importance = torch.where(hard, 1 / self.options.keep, 1 / (1 - self.options.keep))
        error = importance.mul_(self.guess - hard.to(torch.float32)).div_(len(losses)).unsqueeze(1)
        before = (error @ out_weight).mul_(self.units > 0)
        out_weight.sub_(error.t() @ self.units, alpha=LEARNING_RATE)
        out_bias.sub_(error.sum(0), alpha=LEARNING_RATE)
        weight.sub_(before.t() @ self.inputs, alpha=LEARNING_RATE)
        bias.sub_(before.sum(0), alpha=LEARNING_RATE)
        self._steer()
        return self.high.nonzero().squeeze(1)

    def _steer(self) -> None:
        self._state()[-1].mul_(UP if self.share >= self.options.keep else DOWN)

    def _state(self) -> list[Tensor]:
        return [self.keeps[PREFIX + part] for part in PARTS]

    def _draw(self, inputs: int) -> None:
        def drawn(rows: int, columns: int) -> Tensor:
            values = self.generator.standard_normal((rows, columns), np.float32)
            return torch.from_numpy(values).mul_(math.sqrt(2 / columns))

        state = drawn(UNITS, inputs), torch.zeros(UNITS), drawn(1, UNITS), torch.zeros(1), torch.tensor([self.options.threshold])
        self.keeps.update({PREFIX + part: values for part, values in zip(PARTS, state, strict=True)})


def averaged(inputs: Tensor) -> Tensor:
    """Return inputs (n, ...) as (n, features): images and signals averaged down to `SIDE` places a side, if they have more."""
    places = [min(side, SIDE) for side in inputs.shape[2:]]
    if len(places) == 1:
        return F.adaptive_avg_pool1d(inputs, places[0]).flatten(1)
    return (F.adaptive_avg_pool2d(inputs, places) if len(places) == 2 else inputs).flatten(1)  # type: ignore[arg-type]


def features(input_shape: Sequence[int]) -> int:
    """Return how many numbers of a sample of this shape the filter's network reads, see `averaged`."""
    if len(input_shape) not in (2, 3):
        return math.prod(input_shape)
    return input_shape[0] * math.prod(min(side, SIDE) for side in input_shape[1:])


def _parameters(input_shape: Sequence[int]) -> int:
    return features(input_shape) * UNITS + UNITS + UNITS + 1
