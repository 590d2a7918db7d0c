"""The contract of a sample filter: which samples of a batch go forward, and which of those go backward."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedapt.cost.trace import Spared
from fedapt.options import Kind, Options

Count = Annotated[int, Field(ge=0, lt=2**63)]


class Filtered(Options):
    """What became of some batches: samples that were looked at, samples that went backward, and steps after which weights moved.

    A sample counts as often as it came up.
    """

    seen: Count
    trained: Count
    steps: Count


class Session:
    """The decisions of one client in one round, batch after batch in the order of training."""

    def screen(self, inputs: Tensor) -> Tensor | None:
        """Return which samples of a batch (n, ...) go forward, (chosen,) int64 in their order; None means all."""
        return None

    def choose(self, losses: Tensor) -> Tensor | None:
        """Return which of those that went forward go backward, given their losses (forwarded,); as `screen`."""
        return None


class Filter(Kind):
    """The `samples:` block of a scenario; one file in `clients/samples` adds one.

    The weight of a client's update stays the samples that it has seen: a filter would otherwise reweigh clients.

    narrows: whether some samples go forward and not backward, so that layers look for those without an error; exact: whether
    always as many are taken as `forwarded` and `trained` say, and not fewer.
    """

    narrows: ClassVar[bool] = False
    exact: ClassVar[bool] = True

    @property
    def takes_all(self) -> bool:
        """Whether there is nothing to decide, to keep or to report."""
        return False

    def forwarded(self, seen: int) -> int:
        """Return the most samples of a batch of so many that go forward."""
        return seen

    def trained(self, forwarded: int) -> int:
        """Return the most samples of so many that went forward together that go backward."""
        return forwarded

    def open(self, keeps: dict[str, Tensor], generator: np.random.Generator) -> Session:
        """Return what decides in one client's round. keeps: float tensors that outlive it, which the session may change."""
        raise NotImplementedError

    def require(self, input_shape: Sequence[int], dtype: torch.dtype) -> None:
        """Raise ScenarioError for inputs that the filter cannot judge; input_shape: of one sample."""

    def kept_floats(self, input_shape: Sequence[int]) -> int:
        """Return how many numbers a client keeps between its rounds."""
        return 0

    def macs(self, input_shape: Sequence[int], seen: int, forwarded: int, passes: int) -> int:
        """Return the filter's own MACs, all of floats. passes: batches of which something went forward."""
        return 0

    def planned(self, batches: Mapping[int, int]) -> tuple[dict[int, int], Filtered | None]:
        """Return the sizes of the batches that go forward, and what becomes of them, where the most of these is taken."""
        if self.takes_all:
            return dict(batches), None
        forward = Counter[int]()
        for size, count in batches.items():
            forward[self.forwarded(size)] += count
        most = self.most(forward)
        return dict(forward), most.model_copy(update={"seen": sum(size * count for size, count in batches.items())})

    def most(self, forward: Mapping[int, int]) -> Filtered:
        """Return what becomes of batches of which so many went forward, where the most is taken."""
        return Filtered(
            seen=sum(size * count for size, count in forward.items()),
            trained=sum(self.trained(size) * count for size, count in forward.items()),
            steps=sum(forward.values()),
        )

    def spared(self, forward: Mapping[int, int], filtered: Filtered | None, input_shape: Sequence[int]) -> Spared:
        """Return what training was spared by the filter, and what the filter itself computed."""
        if filtered is None:
            return Spared()
        samples, passes = sum(size * count for size, count in forward.items()), sum(forward.values())
        macs = self.macs(input_shape, filtered.seen, samples, passes)
        return Spared(filtered.seen - samples, samples - filtered.trained, passes - filtered.steps, macs)

    def longest(self, batch: int, steps: int) -> tuple[tuple[int, int], ...] | None:
        """Return the sizes of batches whose report is the longest, and how many of each; None without a filter.

        batch: as large as they may be; steps: as many as there may be. A filter that is exact makes two sizes: of whole batches,
        and of one with the rest.
        """
        if self.takes_all:
            return None
        sizes = min(2 if self.exact else steps, batch)
        return tuple((size, steps) for size in range(batch - sizes + 1, batch + 1))


def share_of(keep: float, samples: int) -> int:
    """Return ceil(keep * samples), as if numbers had no rounding."""
    return math.ceil(round(keep * samples, 9))
