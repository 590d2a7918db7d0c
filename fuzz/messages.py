"""Mutations of a quantised message that keep its outer form: header and digest are right unless they are what is changed.

Random bytes never get past the SHA-256 that a message carries, and hardly ever past its JSON and the tensors' offsets. These
change one field, one tensor or one number at a time, and seal the message again. The sealing is written anew from the
description of the format, not taken from `fedapt.quant.wire`.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
from typing import Any

DIGITS = 64
INTERESTING: list[Any] = [
    *(None, True, False, "", "x", "\n", "\x1b[31m", "\ud800", "x" * 5000, [], {}, [[]], {"a": 1}, 0.5, 1.0, -1.0, -0.0, 1e308),
    *(-1, 0, 1, 2, 3, 4, 7, 8, 11, 16, 17, 31, 32, 33, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, 10**30, -(2**63), float("nan"), float("inf")),
]
DTYPES = ["BOOL", "U8", "I8", "U16", "I16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64", "F8_E4M3", "C64", "", "u8"]
FLOATS = [0, 0x80000000, 1, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F800000, 0x41700000]


def mutate(message: bytes, stream: random.Random) -> bytes:
    """Return the message with one to three things changed; bytes that are no message get a byte changed."""
    try:
        (length,) = struct.unpack_from("<Q", message)
        outer = json.loads(message[8 : 8 + length])
        inner = json.loads(outer["__metadata__"]["fedapt"])
        payload = bytearray(message[8 + length :])
        for _ in range(stream.choice([1, 1, 2, 3])):
            stream.choice([_payload, _inner, _inner, _tensor, _names])(outer, inner, payload, stream)
        return sealed(outer, inner, bytes(payload))
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return flipped(message, stream)


def sealed(outer: dict[str, Any], inner: Any, payload: bytes) -> bytes:
    """Return a message of the safetensors header, fedapt's header within it, and the tensors' bytes, with its right digest."""
    if isinstance(inner, dict) and isinstance(inner.get("digest"), str) and len(inner["digest"]) == DIGITS:
        inner["digest"] = "0" * DIGITS
    outer["__metadata__"]["fedapt"] = json.dumps(inner, separators=(",", ":"))
    header = json.dumps(outer, separators=(",", ":")).encode()
    message = struct.pack("<Q", len(header)) + header + payload
    before, mark, after = message.partition(b'\\"digest\\":\\"' + b"0" * DIGITS)
    digest = hashlib.sha256(message).hexdigest().encode()
    return before + mark[:-DIGITS] + digest + after if mark else message


def flipped(data: bytes, stream: random.Random) -> bytes:
    """Return the bytes with one bit of them flipped."""
    changed = bytearray(data or b"\0")
    changed[stream.randrange(len(changed))] ^= 1 << stream.randrange(8)
    return bytes(changed)


def _payload(outer: dict[str, Any], inner: Any, payload: bytearray, stream: random.Random) -> None:
    """Change numbers, or how many there are."""
    place = stream.randrange(len(payload) + 1)
    match stream.randrange(4):
        case 0:
            payload[place : place + 1] = bytes([stream.randrange(256)])
        case 1:
            payload[place - place % 4 : place - place % 4 + 4] = struct.pack("<I", stream.choice(FLOATS))
        case 2:
            del payload[place : place + stream.choice([1, 4, 100])]
        case 3:
            payload[place:place] = stream.randbytes(stream.choice([1, 4, 100]))


def _inner(outer: dict[str, Any], inner: Any, payload: bytearray, stream: random.Random) -> None:
    """Change one value or key of fedapt's own header, at any depth."""
    where = inner
    while isinstance(where, dict | list) and where and stream.random() < 0.8:
        key = stream.choice(list(where)) if isinstance(where, dict) else stream.randrange(len(where))
        if not isinstance(where[key], dict | list) or not where[key] or stream.random() < 0.2:
            _replace(where, key, stream)
            return
        where = where[key]
    _add(where, stream)


def _tensor(outer: dict[str, Any], inner: Any, payload: bytearray, stream: random.Random) -> None:
    """Change how one tensor is declared: its type, its shape, its place."""
    name = stream.choice([name for name in outer if name != "__metadata__"] or ["w"])
    entry = outer.setdefault(name, {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})
    field = stream.choice(["dtype", "shape", "shape", "data_offsets"])
    values = entry[field]
    if field == "dtype":
        entry[field] = stream.choice(DTYPES)
    elif stream.random() < 0.3:
        values[:] = values[::-1] + [1] * stream.randrange(3)
    elif values:
        values[stream.randrange(len(values))] = stream.choice([0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 2**31, 2**62, 2**63, -1])


def _names(outer: dict[str, Any], inner: Any, payload: bytearray, stream: random.Random) -> None:
    """Rename, leave out or swap tensors."""
    names = [name for name in outer if name != "__metadata__"]
    one, other = stream.choice(names or [""]), stream.choice(names or [""])
    match stream.randrange(3):
        case 0:
            outer[stream.choice([one + "x", one.upper(), "", "\n", "é", "a.b.codes", "x" * 2000])] = outer.pop(one)
        case 1:
            del outer[one]
        case 2:
            outer[one], outer[other] = outer[other], outer[one]


def _replace(where: Any, key: Any, stream: random.Random) -> None:
    if isinstance(where, dict) and stream.random() < 0.2:
        value = where.pop(key)
        if stream.random() < 0.5:
            where[stream.choice([key + "x", "", "\n\x1b[31m", "\ud800", "x" * 5000])] = value
    elif isinstance(where[key], int) and stream.random() < 0.5:
        where[key] += stream.choice([-1, 1, 2, 8])
    else:
        where[key] = stream.choice(INTERESTING)


def _add(where: Any, stream: random.Random) -> None:
    if isinstance(where, dict):
        where[stream.choice(["a", "b", "protocol", "layers", "report", "\ud800", "1"])] = stream.choice(INTERESTING)
    elif isinstance(where, list):
        where.insert(stream.randrange(len(where) + 1), stream.choice(INTERESTING))
