"""Files that are whole or absent: written under a temporary name, synced, renamed; and the system's errors as sentences."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedapt.errors import DamagedData

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}


@contextmanager
def explained(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into DamagedData: one sentence with advice.

    needed: how many bytes the block writes, if known.
    """
    try:
        yield
    except OSError as error:
        raise DamagedData(f"{path} could not be written: {_cause(path, error, needed)}") from None


@contextmanager
def whole_file(path: Path, needed: int | None = None) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path` only when the block has ended well and its bytes are on the disk.

    Raises DamagedData if the system refuses; then, and when the block raises, `path` is what it was before.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explained(path, needed):
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is either complete under its name or not there; raises DamagedData if the system refuses."""
    with whole_file(path, len(data)) as file:
        file.write(data)


def append(path: Path, text: str) -> None:
    """Append to a file and sync it; raises DamagedData if the system refuses."""
    with explained(path, len(text)), open(path, "a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cause(path: Path, error: OSError, needed: int | None) -> str:
    if error.errno in FULL:
        wanted = "" if needed is None else f", {_megabytes(needed)} were needed"
        free = ""
        with suppress(OSError):
            free = f", {_megabytes(shutil.disk_usage(path.parent).free)} are free"
        return f"the disk is full or a size limit was reached{wanted}{free}. Free some space; the rounds before are intact."
    if error.errno in FORBIDDEN:
        return f"{path.parent} does not allow it ({error.strerror}). Make the folder writable or choose another one."
    if error.errno in VANISHED:
        return f"{path.parent} has vanished. Was it moved or deleted while the run was writing?"
    return f"{error.strerror or error}. Check the disk under {path.parent}."


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 50_000 else f"{count / 1e3:.1f} kB"
