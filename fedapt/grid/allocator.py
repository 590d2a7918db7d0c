"""glibc's allocator, set up for a process that allocates and frees the same megabytes over and over."""

from __future__ import annotations

import ctypes
from contextlib import suppress

MIB = 2**20
# The numbers of <malloc.h>, with values that fit into an int. One alone changes little: a block beyond the threshold, or a heap
# that is trimmed and grown again, is mapped and cleared anew at each step, which is half of a convolution's time on a CPU.
SETTINGS = {-1: 1024 * MIB, -2: 64 * MIB, -3: 32 * MIB}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD


def keep_memory() -> None:
    """Have freed memory kept for the next step; nothing happens where the C library is another. Not for a board: it costs RAM."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        for parameter, value in SETTINGS.items():
            mallopt(parameter, value)
