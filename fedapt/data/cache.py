"""A small cache of computed arrays in `$XDG_CACHE_HOME/fedapt` or `~/.cache/fedapt`.

It may only ever save time: an entry that is damaged, and a folder that cannot be written, lead to computing the array again.
Entries are .npy files with a digest behind the array, written under a temporary name and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIGEST = 16  # bytes
KEEP = 200  # entries; the least recently used go first

Array = npt.NDArray[Any]


def folder() -> Path:
    """Return the cache's folder, which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "fedapt"


def digest(*parts: bytes | str | Array) -> str:
    """Return the hexadecimal digest of the parts, in which no part runs into the next."""
    total = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.tobytes()
        kind = f"{part.dtype}{part.shape}" if isinstance(part, np.ndarray) else type(part).__name__
        total.update(f"{kind}:{len(data)}:".encode() + data)
    return total.hexdigest()


def cached(name: str, key: str, make: Callable[[], Array]) -> Array:
    """Return the array of this name and key (a digest of everything it depends on), making and keeping it if it is not there."""
    found = kept(name, key)
    if found is None:
        found = make()
        with contextlib.suppress(OSError):
            _write(_path(name, key), found)
    return found


def kept(name: str, key: str) -> Array | None:
    """Return the array of this name and key if it is there and whole."""
    return _read(_path(name, key))


@contextlib.contextmanager
def alone(name: str, key: str) -> Iterator[None]:
    """Wait until no other process makes the array of this name and key, if the folder can be written."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            path = _path(name, key).with_suffix(".lock")
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w"))
            # Whoever comes between the end of the lock and that of the file makes the array again: that costs time only.
            stack.callback(path.unlink, missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _path(name: str, key: str) -> Path:
    return folder() / f"{name}-{key}.npy"


def _read(path: Path) -> Array | None:
    try:
        content = path.read_bytes()
        body, seal = content[:-DIGEST], content[-DIGEST:]
        if hashlib.blake2b(body, digest_size=DIGEST).digest() != seal:
            return None
        os.utime(path)
    except OSError:
        return None
    array: Array = np.load(io.BytesIO(body), allow_pickle=False)
    return array


def _write(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    body = io.BytesIO()
    np.save(body, array, allow_pickle=False)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body.getvalue() + hashlib.blake2b(body.getvalue(), digest_size=DIGEST).digest())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    entries = sorted(path.parent.glob("*.npy"), key=lambda entry: entry.stat().st_mtime)
    for entry in entries[:-KEEP]:
        entry.unlink(missing_ok=True)
