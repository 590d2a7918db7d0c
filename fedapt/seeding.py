"""Named random streams: every draw in fedapt is keyed by (run seed, purpose, indices), never by what was drawn before.

A client that is run again, by another worker or after a restart, redraws the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def stream_key(seed: int, purpose: str, *indices: int) -> int:
    """Return the 128-bit key of a stream: the same arguments give the same key on every machine."""
    name = ":".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")


def numpy_stream(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Return a counter-based (Philox) numpy generator for this stream."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, purpose, *indices)))


def torch_stream(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """Return a CPU torch generator at the start of this stream."""
    import torch

    return torch.Generator().manual_seed(_torch_seed(seed, purpose, *indices))


@contextmanager
def torchs_own_stream(seed: int, purpose: str, *indices: int) -> Iterator[None]:
    """Let what draws from torch's global CPU state, such as dropout, draw this stream, and leave that state as it was."""
    import torch

    # Seeding all devices would also queue a call, with its stack, for each device that is never used.
    own = torch.default_generator
    before = own.get_state()
    own.manual_seed(_torch_seed(seed, purpose, *indices))
    try:
        yield
    finally:
        own.set_state(before)


def _torch_seed(seed: int, purpose: str, *indices: int) -> int:
    return stream_key(seed, purpose, *indices) & (2**63 - 1)
