"""Times of short pieces of work on a machine that does other things as well.

A block times one piece a few times in a row and takes the median; blocks of all pieces take turns, and the fastest block of each
counts. Noise only ever adds time, and what lasts for a second falls on every piece alike. On one thread it is the thread's
processor time that counts, from which the programs that interrupt it are absent; several threads are timed by the wall.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch


def fastest_seconds(
    pieces: Sequence[Callable[[], object]], rounds: int, block_s: float, progress: Callable[[float], None] = lambda share: None
) -> list[float]:
    """Return the seconds that each piece takes undisturbed.

    rounds: blocks of each piece; block_s: least seconds of a block, which holds three calls or more and one before them that is
    not timed; progress: told the share of rounds that is done.
    """
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    blocks: list[list[float]] = [[] for _ in pieces]
    for done in range(1, rounds + 1):
        for piece, medians in zip(pieces, blocks, strict=True):
            medians.append(_block(piece, block_s, clock))
        progress(done / rounds)
    return [min(medians) for medians in blocks]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _block(piece: Callable[[], object], block_s: float, clock: Callable[[], float]) -> float:
    piece()
    times: list[float] = []
    while len(times) < 3 or sum(times) < block_s:
        began = clock()
        piece()
        times.append(clock() - began)
    return statistics.median(times)
