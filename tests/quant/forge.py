"""Messages that a liar would send: whatever is in them, their digest is right."""

import hashlib
import resource
import struct
import tracemalloc
from contextlib import contextmanager

import safetensors.numpy


def saved(tensors, text):
    """Return tensors with a header, and with the right digest if the header has 64 zeros for it."""
    return sealed(safetensors.numpy.save(tensors, metadata={"fedapt": text}))


def sealed(message):
    mark = b'\\"digest\\":\\"'
    return message.replace(mark + b"0" * 64, mark + hashlib.sha256(message).hexdigest().encode(), 1)


def framed(header, body=b""):
    return sealed(struct.pack("<Q", len(header)) + header + body)


@contextmanager
def allocating_less_than(limit):
    """Check that Python's memory stays below `limit` bytes, and that the process grows by less than 50 MB."""
    highest_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - highest_kb < 50_000
