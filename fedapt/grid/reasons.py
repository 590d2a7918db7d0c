"""Why a client's work came to nothing, as one sentence for the ledger; tracebacks are for the log."""

from __future__ import annotations

import resource

from fedapt.errors import FedaptError

MIB = 2**20
ALLOCATION_FAILED = ("can't allocate memory", "bad_alloc", "Cannot allocate memory")


def reason_of(error: BaseException) -> str:
    """Return what was raised in a client's code as a sentence: fedapt's own errors are one, others get their type's name."""
    try:
        text = str(error)
    except Exception:
        text = "(it cannot be shown)"
    if isinstance(error, MemoryError) or any(words in text for words in ALLOCATION_FAILED):
        return f"out of memory: {memory_of_this_process()}"
    return text if isinstance(error, FedaptError) else f"{type(error).__name__}: {text}"


def memory_of_this_process() -> str:
    """Return the peak and the limit of this process's memory in words."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    allowed = "no limit set" if limit == resource.RLIM_INFINITY else f"limit {limit / MIB:.0f} MiB of address space"
    return f"peak {peak / MIB:.0f} MiB, {allowed}"
