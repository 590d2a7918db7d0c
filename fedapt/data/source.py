"""What every source of samples hands over: labels and columns first, inputs once it is decided who owns which sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fedapt.errors import SetupError
from fedapt.seeding import numpy_stream

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


def sample(rows: Ints, count: int | None, seed: int, split: str) -> Ints:
    """Return a seeded random choice of `count` of the rows, in their order; all of them where there are no more."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.sort(numpy_stream(seed, f"data.sample.{split}").permutation(len(rows))[:count])]
