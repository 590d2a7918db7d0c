"""Fuzz what reads a run folder from elsewhere, as `fedapt resume` and `fedapt report` do: `python -m fuzz.record`.

An input is the kind of a file, a line end, and the file. It is refused with DamagedData, or read.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

from fuzz.harness import check_text, fuzz, instrumented

with instrumented("fedapt.record", "fedapt.results"):
    from fedapt.record.checkpoint import Checkpoint
    from fedapt.record.commits import MANIFEST, check, verified
    from fedapt.record.ledger_file import read_layers, read_rows
    from fedapt.record.tables import ROUND_COLUMNS, read_csv, read_json

import numpy as np

from fedapt.errors import DamagedData
from fedapt.record.strategy_state import restore
from fuzz.messages import flipped

FOLDER = Path(mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
TOKENS = [
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b'""',
    b'"\\ud800"',
    b'"\\u0000"',
    b'".."',
    b"[]",
    b"{}",
    b"[" * 9999,
    b"1" * 5000,
]
DIGITS = b"0123456789"


def as_state(files: dict[str, bytes]) -> bytes:
    """Return the two files of a round's state as one input."""
    text = files["state.json"]
    return b"state\n" + struct.pack("<I", len(text)) + text + files["state.safetensors"]


def _state(path: Path, content: bytes) -> None:
    (length,) = struct.unpack_from("<I", content.ljust(4, b"\0"))
    parts = {"state.json": content[4 : 4 + length], "state.safetensors": content[4 + length :]}
    state = Checkpoint.from_files(parts)
    assert all(np.isfinite(values).all() for values in state.model.values())
    if state.strategy is not None:
        restore(SimpleNamespace(), dict(state.strategy))


def _manifest(path: Path, content: bytes) -> None:
    check(path.parent)
    list(verified(path.parent, ("a",)))


def _ledger(path: Path, content: bytes) -> None:
    read_layers(path)
    read_rows(path)


KINDS: dict[bytes, tuple[str, Callable[[Path, bytes], object]]] = {
    b"state": ("state", _state),
    b"manifest": (MANIFEST, _manifest),
    b"ledger": ("ledger.parquet", _ledger),
    b"rounds": ("rounds.csv", lambda path, _: read_csv(path, ROUND_COLUMNS)),
    b"summary": ("summary.json", lambda path, _: read_json(path, ["rounds"])),
}


def accepts(data: bytes) -> bool:
    """Return whether the file was read."""
    kind, _, content = data.partition(b"\n")
    if kind not in KINDS:
        return False
    name, read = KINDS[kind]
    (FOLDER / "a").write_bytes(b"hello")
    (FOLDER / name).write_bytes(content)
    try:
        read(FOLDER / name, content)
    except DamagedData as error:
        check_text(str(error), own=True)
        return False
    return True


def mutate(data: bytes, stream: random.Random) -> bytes:
    """Change a value of JSON, a number, or a byte; the length in front of a state stays right."""
    kind, _, content = data.partition(b"\n")
    if kind != b"state":
        return kind + b"\n" + _edited(content, stream)
    (length,) = struct.unpack_from("<I", content.ljust(4, b"\0"))
    text, arrays = content[4 : 4 + length], content[4 + length :]
    if stream.random() < 0.7:
        text = _edited(text, stream)
    else:
        arrays = flipped(arrays, stream)
    return as_state({"state.json": text, "state.safetensors": arrays})


def _edited(text: bytes, stream: random.Random) -> bytes:
    values = [place for place, byte in enumerate(text) if byte in b'":,[{' + DIGITS]
    if not values or stream.random() < 0.3:
        return flipped(text, stream)
    place = stream.choice(values)
    ends = [end for end in range(place + 1, min(place + 60, len(text))) if text[end] in b'":,]}' + DIGITS] or [len(text)]
    return text[: place + 1] + stream.choice(TOKENS) + text[stream.choice(ends) :]


if __name__ == "__main__":
    fuzz("record", accepts, mutate)
