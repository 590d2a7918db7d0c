"""Ray for one run, started on this machine, joined where a cluster is, or found running: in a thread, while the data load."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
from collections.abc import Callable
from typing import Self

from fedapt.errors import SetupError

DETAIL = "Worker exit detail: "
GUESSES = re.compile(r" Some common causes|; Object store memory usage")
NAMES = re.compile(r"(, ID:)? ?\b[0-9a-f]{20,}\b")
CONNECT_S = 10.0
TELLING = (DETAIL, "Error:", "Exception:", "low on memory", "The node")


class RaySession:
    """A context manager whose end waits until Ray has ended; a Ray that this process had before is used, and left running.

    workers: how many there shall be, None for one a CPU of the cluster; address: of the cluster, None for a Ray of its own.
    """

    def __init__(self, workers: int | None, address: str | None = None) -> None:
        self._wanted, self._address = workers, address
        self._failure: Exception | None = None
        self._dismiss: Callable[[], None] = lambda: None
        self._there, self._done = threading.Event(), threading.Event()
        # One thread starts and ends it: Ray's processes die with the thread that has started them.
        self._thread = threading.Thread(target=self._last, name="ray", daemon=True)
        self._thread.start()

    def _last(self) -> None:
        owned = False
        try:
            owned = self._start()
        except Exception as failure:  # for whoever waits
            self._failure = failure
        self._there.set()
        self._done.wait()
        self._dismiss()
        if owned:
            import ray

            ray.shutdown()

    def _start(self) -> bool:
        """Start Ray or join it, unless this process has one; return whether that was done."""
        import ray

        if ray.is_initialized():
            return False
        if self._address is None:
            start_ray(self._wanted or 1)
        else:
            join_ray(self._address)
        return True

    def wait(self) -> int:
        """Return how many workers there shall be, when Ray is there; raises SetupError if it cannot be."""
        self._there.wait()
        if isinstance(self._failure, SetupError):
            raise self._failure
        if isinstance(self._failure, ImportError):
            raise SetupError(
                f"engine.kind ray needs Ray ({self._failure}): pip install 'fedapt[sim]', or set engine.kind to inline"
            )
        if self._failure is not None:
            raise SetupError(f"Ray could not start: {cause(self._failure)}")
        return self._wanted or _cpus()

    @property
    def spread(self) -> bool:
        """Whether workers are spread over nodes, and not packed onto few."""
        return self._address is not None

    def end(self, dismiss: Callable[[], None] = lambda: None) -> None:
        """Begin to end Ray, if it is this session's; `dismiss` is called first, to end what was started on it."""
        if not self._done.is_set():
            self._dismiss = dismiss
            self._done.set()

    def close(self) -> None:
        """End Ray, if it is this session's, and return when it has ended."""
        self.end()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_ray(workers: int) -> None:
    """Start Ray on this machine, whatever other Ray runs on it, without its dashboard, its usage report and its chatter."""
    import ray

    # Ray would hide the accelerators from workers that do not ask for one, and warns that it will not in future.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)
    _silence()


def join_ray(address: str) -> None:
    """Join a cluster at host:port, or the one of this machine (`auto`); raises SetupError if there is none."""
    import ray

    try:
        if address != "auto":
            _require_listener(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError) as error:
        raise SetupError(
            f"engine.address {address}: no Ray cluster can be joined there ({cause(error)}); start one with `ray start --head`,"
            " and this machine's part of it with `ray start --address`, or leave the address out for a Ray on this machine alone"
        ) from None
    _silence()


def _require_listener(address: str) -> None:
    """Raise OSError if nobody listens at the address, where Ray would try for minutes and then end the process."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def _cpus() -> int:
    """Return how many CPUs there are in the cluster, at least one."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 0)))


def _silence() -> None:
    import ray

    # Ray would print a paragraph for each dead worker, even so; the ledger and the log have a sentence.
    ray._private.worker._worker_logs_enabled = False


def cause(error: Exception) -> str:
    """Return what a Ray error says of its cause, without the names and guesses that would make equal causes look different."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(words in line for words in TELLING)]
    line = (telling or lines or [type(error).__name__])[-1]
    line = line.partition(DETAIL)[2] or line
    return NAMES.sub("", GUESSES.split(line)[0])[:300]
