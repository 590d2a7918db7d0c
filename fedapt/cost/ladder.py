"""What a client may give up when its wish does not fit, and in which order: a table of steps.

A step yields drafts of a round, each cheaper than the one it starts from, and the planner takes the first that fits. Bits go
first: four of them cost no accuracy. Smaller micro-batches change no gradient's mean, only its noise. Freezing takes what the
first layers could still learn, so as few as possible are frozen, and with them the micro-batch may be as large as at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from fedapt.cost.workload import Workload, Workloads


@dataclass(frozen=True)
class Draft:
    """A round that could be. lowered: whether bits may be lowered below the wish."""

    workloads: Workloads
    batch: int
    frozen: tuple[str, ...] = ()
    lowered: bool = False

    @property
    def workload(self) -> Workload:
        """What one step of it does."""
        return self.workloads.at(self.frozen)


Step = Callable[[Draft, int], Iterator[Draft]]


def lower_bits(draft: Draft, batch: int) -> Iterator[Draft]:
    """Take bits where the least is lost, as far as the lowest."""
    yield replace(draft, lowered=True)


def halve_micro_batch(draft: Draft, batch: int) -> Iterator[Draft]:
    """Train on a half of each batch at a time, on a quarter, down to single samples, each applied at once."""
    for size in halves(draft.batch)[1:]:
        yield replace(draft, batch=size)


def freeze_first_layers(draft: Draft, batch: int) -> Iterator[Draft]:
    """Freeze more and more of the first layers, each time with the largest micro-batch that an earlier step allows."""
    for frozen in draft.workloads.prefixes()[1:]:
        for size in halves(batch):
            if size >= draft.batch:
                yield replace(draft, frozen=frozen, batch=size)


def halves(batch: int) -> list[int]:
    """Return a batch, its half, its quarter, and so on down to 1."""
    return [batch >> times for times in range(batch.bit_length())]


# A step gets the draft that the steps before it ended with, and the batch that was asked for.
LADDER: dict[str, Step] = {
    "bits": lower_bits,
    "micro_batch": halve_micro_batch,
    "freeze": freeze_first_layers,
}
