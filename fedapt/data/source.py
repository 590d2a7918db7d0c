"""What every source of samples hands over: labels and columns first, inputs once it is decided who owns which sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedapt.errors import ScenarioError, SetupError
from fedapt.seeding import numpy_stream

MOST_NAMED = 12

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Source:
    """Samples whose inputs are not read or drawn yet.

    labels:      (n,) int64 of the training samples, in 0 .. classes - 1; `test_labels` (m,) of the global test set.
    class_names: one a class.
    columns:     further columns (n,) that a partition asked for, as numbers.
    vocabulary:  how many tokens there are, padding included, where the inputs are tokens; else 0.
    inputs:      from the owner of each row (n,) int32, -1 for nobody, to the inputs (n, *shape) and the test set's (m, *shape).
    """

    labels: Ints
    test_labels: Ints
    class_names: tuple[str, ...]
    inputs: Callable[[npt.NDArray[np.int32]], tuple[Array, Array]]
    columns: Mapping[str, Array] = field(default_factory=dict)
    vocabulary: int = 0


def split_off(count: int, share: float, seed: int) -> tuple[Ints, Ints]:
    """Return the rows that stay and a seeded random `share` of them as test set, both ascending and neither empty."""
    if count < 2:
        raise SetupError(f"data.source: {count} samples are too few to keep some as test set; give a test file as `data.test`.")
    order = numpy_stream(seed, "data.test").permutation(count)
    tested = min(max(1, round(count * share)), count - 1)
    return np.sort(order[tested:]), np.sort(order[:tested])


def class_numbers(wanted: Sequence[int | str] | None, names: Sequence[str]) -> Ints | None:
    """Return the numbers of the wanted classes, ascending; None for all of them.

    A text is a class's name. A number is a name too where all names are numbers, else a place in the list of classes, from 0.
    Raises ScenarioError for an unknown class and for one that is named twice.
    """
    if wanted is None:
        return None
    numbered = all(name.removeprefix("-").isdecimal() for name in names)
    known: dict[int | str, int] = {name: number for number, name in enumerate(names)}
    known |= {int(name): number for name, number in known.items()} if numbered else {n: n for n in range(len(names))}
    found: list[int] = []
    for one in wanted:
        if one not in known:
            raise ScenarioError(f"data.classes: there is no class {_quoted(one)}; {_listing(names, numbered)}.")
        if known[one] in found:
            raise ScenarioError(f"data.classes: the class {_quoted(one)} is there twice; name each class once.")
        found.append(known[one])
    return np.sort(np.array(found, np.int64))


def of_classes(rows: Ints, labels: Ints, classes: Ints | None, split: str) -> Ints:
    """Return the rows whose label, in `labels` (one a row), is of these classes; raises SetupError if there are none."""
    if classes is None:
        return rows
    chosen = rows[np.isin(labels, classes)]
    if not len(chosen):
        raise SetupError(f"data.classes: the {split} set has no sample of these classes; name others.")
    return chosen


def _quoted(one: int | str) -> str:
    return f"`{one}`" if isinstance(one, str) else str(one)


def _listing(names: Sequence[str], numbered: bool) -> str:
    rest = len(names) - MOST_NAMED
    some = ", ".join(names[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    return f"there are {some}" if numbered else f"there are 0 to {len(names) - 1}, by name {some}"


def sample(rows: Ints, count: int | None, seed: int, split: str) -> Ints:
    """Return a seeded random choice of `count` of the rows, in their order; all of them where there are no more."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.sort(numpy_stream(seed, f"data.sample.{split}").permutation(len(rows))[:count])]
