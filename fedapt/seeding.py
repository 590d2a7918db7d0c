"""Named random streams: every draw in fedapt is keyed by (run seed, purpose, indices), never by what was drawn before.

A client that is run again, by another worker or after a restart, redraws the same numbers.
"""

from __future__ import annotations

import hashlib
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

    return torch.Generator().manual_seed(stream_key(seed, purpose, *indices) & (2**63 - 1))
