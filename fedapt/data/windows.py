"""Running text as samples: windows of characters, each with the character that follows it.

As the Shakespeare task of LEAF (Caldas et al., https://arxiv.org/abs/1812.01097): the texts of one client are put one behind the
other, and windows slide over them. Unlike there, a window may begin before its client's text, with padding, so that clients who
said little have samples too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedapt.data.tables import Place
from fedapt.data.tokens import Characters, character_codes

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows over one long line of codes, in which padding separates the clients.

    codes:    (characters + padding,) uint8.
    followed: (n,) where in `codes` the character is that follows each window.
    rows:     (n,) the row of the table which that character is from.
    """

    codes: npt.NDArray[np.uint8]
    followed: Ints
    rows: Ints
    length: int

    @property
    def labels(self) -> Ints:
        """The character that follows each window, as a class: its code less one, because padding is no class."""
        return self.codes[self.followed].astype(np.int64) - 1

    def inputs(self) -> Array:
        """Return the windows (n, length) uint8."""
        return np.lib.stride_tricks.sliding_window_view(self.codes, self.length)[self.followed - self.length]

    def only(self, chosen: Ints) -> Windows:
        """Return these windows alone."""
        return Windows(self.codes, self.followed[chosen], self.rows[chosen], self.length)


def windows(texts: list[str], clients: Array, options: Characters, place: Place) -> Windows:
    """Return the windows over the texts of each client, in the table's order, joined by ends of lines.

    texts, clients: one a row of the table. Raises SetupError if no client has two characters.
    """
    codes, rows, followed = [], [], []
    start = 0
    order = np.argsort(clients, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(clients[order])) + 1):
        text = character_codes("\n".join(texts[row] for row in own))
        lengths = [len(texts[row]) + 1 for row in own]
        start += options.length
        # The first window of a client that has fewer characters than a stride ends before its last one.
        first = min(options.stride, len(text) - 1)
        followed.append(start + np.arange(first, len(text), options.stride) if first > 0 else np.arange(0))
        codes += [np.zeros(options.length, np.uint8), text]
        rows += [np.full(options.length, -1), np.repeat(own, lengths)[: len(text)]]
        start += len(text)
    where = np.concatenate(followed)
    if not len(where):
        raise place.wrong("its texts are too short to predict a character from those before it.")
    return Windows(np.concatenate(codes), where, np.concatenate(rows)[where], options.length)
