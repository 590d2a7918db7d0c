"""Which clients are trained together, as one batch of tensors: a function of the tasks alone, never of workers or chunks.

Whom a client shares its batch with may decide the last bits of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.visit import Arrays, Outcome, Player, Task
from fedapt.quant import FLOAT_BITS

Grouping = Callable[[Sequence[Task]], list[list[Task]]]


def alone(tasks: Sequence[Task]) -> list[list[Task]]:
    """Have every client train on its own."""
    return [[task] for task in tasks]


@dataclass(frozen=True)
class Groups:
    """size: clients of a group at most; plain: by client, whether its method is the ordinary one, which can be batched."""

    size: int
    plain: Sequence[bool]

    def __call__(self, tasks: Sequence[Task]) -> list[list[Task]]:
        """Return the tasks in groups as equal as can be, those with the most steps first; what cannot be batched is alone."""
        groups: list[list[Task]] = []
        together: dict[Hashable, list[Task]] = {}
        for task in tasks:
            if self.plain[task.client] and is_plain(task):
                told = task.instructions
                together.setdefault((told.batch, told.proximal_mu, task.correction is None), []).append(task)
            else:
                groups.append([task])
        for alike in together.values():
            alike.sort(key=steps_of, reverse=True)
            number = -(-len(alike) // self.size)
            ends = [len(alike) * part // number for part in range(number + 1)]
            groups += [alike[first:end] for first, end in pairwise(ends)]
        return groups


def play(player: Player, arrays: Arrays, group: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
    """Give the tasks of a group to its clients, and yield their outcomes in order."""
    if len(group) > 1:
        return player.visit_together(arrays, group, total)
    return iter([player.visit(arrays, group[0], total)])


def is_plain(task: Task) -> bool:
    """Return whether it is ordinary training in float32, of which nothing but the end is sent."""
    told = task.instructions
    return (
        task.kind == "train"
        and all(bits == FLOAT_BITS for bits in task.plan.bits.values())
        and not (task.part or told.backward or told.copies or told.adaptation or task.kept)
        and told.link.send == "delta"
        and told.link.bits is None
        and bool(task.planned)
    )


def steps_of(task: Task) -> int:
    """Return how many steps a client is asked for."""
    return sum(task.planned.values())
