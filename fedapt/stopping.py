"""An orderly end on Ctrl-C and SIGTERM: never in the middle of a commit, and with the exit status that belongs to the signal."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal asked the run to stop; not an Exception, so that no client's error handling swallows it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    def __str__(self) -> str:
        name = signal.Signals(self.signal_number).name
        return f"stopped by {name}: committed rounds are kept, the one that was under way is discarded"


class Stopper:
    """Turns the first signal into `Stopped`; later ones are ignored, because the results are then being written."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._holding = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        # Ray's compiled code returns in spite of the exception that was raised in it, which Python calls a SystemError.
        if isinstance(error, SystemError) and isinstance(error.__cause__, Stopped):
            raise error.__cause__ from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put a stop that comes during the block off until its end."""
        before, self._holding = self._received, True
        try:
            yield
        finally:
            self._holding = False
        if self._received is not None and before is None:
            raise Stopped(self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = number
            if not self._holding:
                raise Stopped(number)
