"""What a client may give up when its wish does not fit, and in which order: a table of steps.

A step yields drafts of a round, each cheaper than the one it starts from, and the planner takes the first that fits. Bits go
first: four of them cost no accuracy. Smaller micro-batches change no gradient's mean, only its noise. Freezing takes what the
first layers could still learn, so as few as possible are frozen, and with them the micro-batch may be as large as at first.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace

from fedapt.cost.workload import Workload, Workloads
from fedapt.quant.treatment import Scheme


@dataclass(frozen=True)
class Draft:
    """A round that could be. lowered: whether bits may be lowered below the wish."""

    workloads: Workloads
    batch: int
    scheme: Scheme
    lowered: bool = False

    @property
    def workload(self) -> Workload:
        """What one step of it does."""
        return self.workloads.at(self.scheme)


@dataclass(frozen=True)
class Room:
    """What steps may know of a demand. batch: the one that was asked for; device: equal for devices with equal room."""

    batch: int
    device: Hashable
    fits: Callable[[Draft], bool]


Step = Callable[[Draft, Room], Iterator[Draft]]


def lower_bits(draft: Draft, room: Room) -> Iterator[Draft]:
    """Take bits where the least is lost, as far as the lowest."""
    yield replace(draft, lowered=True)


def halve_micro_batch(draft: Draft, room: Room) -> Iterator[Draft]:
    """Train on a half of each batch at a time, on a quarter, down to single samples, each applied at once."""
    for size in halves(draft.batch)[1:]:
        yield replace(draft, batch=size)


def filter_gradients(draft: Draft, room: Room) -> Iterator[Draft]:
    """Filter the gradients of the last convolutions, with the largest micro-batch that an earlier step allows."""
    return _lent("filter", draft, room)


def train_sparsely(draft: Draft, room: Room) -> Iterator[Draft]:
    """Train biases, the head and parts of some layers, with the largest micro-batch that an earlier step allows."""
    return _lent("sparse", draft, room)


def _lent(kind: str, draft: Draft, room: Room) -> Iterator[Draft]:
    if kind not in draft.workloads.lend:
        return
    sizes = [size for size in halves(room.batch) if size >= draft.batch]

    def fits(scheme: Scheme) -> bool:
        # Some kernels need more for a single sample than for two.
        return any(room.fits(replace(draft, scheme=scheme, batch=size)) for size in sizes[-2:])

    scheme = draft.workloads.lend[kind](draft.workloads, (room.device, draft.batch), fits)
    for size in sizes if scheme else ():
        yield replace(draft, scheme=scheme or draft.scheme, batch=size)


def freeze_first_layers(draft: Draft, room: Room) -> Iterator[Draft]:
    """Freeze more and more of the first layers, each time with the largest micro-batch that an earlier step allows."""
    for frozen in draft.workloads.prefixes()[1:]:
        for size in halves(room.batch):
            if size >= draft.batch:
                yield replace(draft, scheme=replace(draft.workloads.begin, frozen=frozen), batch=size)


def halves(batch: int) -> list[int]:
    """Return a batch, its half, its quarter, and so on down to 1."""
    return [batch >> times for times in range(batch.bit_length())]


# A step gets the draft that the steps before it ended with.
LADDER: dict[str, Step] = {
    "bits": lower_bits,
    "micro_batch": halve_micro_batch,
    "filter": filter_gradients,
    "sparse": train_sparsely,
    "freeze": freeze_first_layers,
}
