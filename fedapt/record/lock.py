"""One process at a time writes a run folder. The lock is the kernel's, so it ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedapt.errors import SetupError
from fedapt.record.files import explained

NAME = ".lock"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a run folder to this process during the block; a lock that a dead process has left is taken over.

    Raises SetupError naming the process that has the folder, DamagedData if the folder cannot be written to.
    """
    path = folder / NAME
    handle = _locked(path)
    try:
        with explained(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps({"pid": os.getpid(), "boot_id": _boot_id()}).encode(), 0)
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _locked(path: Path) -> int:
    """Return the open lock file once this process has the lock of the file that has the name."""
    while True:
        with explained(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                    return handle
            except BlockingIOError:
                raise SetupError(f"{path.parent}: run is in use by {_holder(handle)}. Wait for it, or end it first.") from None
            except BaseException:
                os.close(handle)
                raise
            # The holder removed its file between our opening it and our lock.
            os.close(handle)


def _holder(handle: int) -> str:
    """Say who has the lock, and close the file."""
    try:
        holder = json.loads(os.pread(handle, 1000, 0))
        return f"pid {int(holder['pid'])}" + ("" if holder["boot_id"] == _boot_id() else " of another machine")
    except (ValueError, KeyError, TypeError):
        return "another process"
    finally:
        os.close(handle)


def _boot_id() -> str:
    with suppress(OSError):
        return BOOT_ID.read_text().strip()
    return ""
