"""Simulated time: when updates arrive, and for which the server waits. A new clock is one file here, one line in the table."""

from fedapt.clock.asynchronous import Asynchronous
from fedapt.clock.clock import Clock
from fedapt.clock.synchronous import Synchronous

CLOCKS: dict[str, type[Clock]] = {
    "synchronous": Synchronous,
    "asynchronous": Asynchronous,
}
