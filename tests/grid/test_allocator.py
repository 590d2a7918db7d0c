"""A simulating process keeps the memory that it has freed."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import ctypes, sys
from fedapt.grid.allocator import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype = ctypes.c_void_p
pages = int(open("/proc/self/statm").read().split()[1])
block = libc.malloc(ctypes.c_size_t(16 * 2**20))
ctypes.memset(block, 1, 16 * 2**20)
libc.free(ctypes.c_void_p(block))
print(int(open("/proc/self/statm").read().split()[1]) - pages)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the settings are glibc's")
def test_a_freed_block_of_megabytes_stays_with_the_process():
    """16 MiB are 4,096 pages."""
    left = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", CODE, how], capture_output=True, check=True, cwd=Path(__file__).parents[2]
            ).stdout
        )
        for how in ("usual", "kept")
    }
    assert left["usual"] < 100 and left["kept"] > 4000
