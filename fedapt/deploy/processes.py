"""Processes that never outlive this one: however it ends, killed or not, they end too, with all that they have started.

All of them share one process group. Its first member only waits at a pipe whose other end is here; the kernel closes that end
when this process is gone, and then the member kills its group.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

KEEPER = "trap '' TERM; read _; kill -KILL 0"
LONGEST_LINE = 300
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class ProcessGroup:
    """Use it as a context manager: at its end every process is killed. What each one prints goes to a file in `logs`."""

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs, self._environment = logs, environment
        self._members: dict[str, subprocess.Popen[bytes]] = {}
        self._keeper = subprocess.Popen(["/bin/sh", "-c", KEEPER], stdin=subprocess.PIPE, process_group=0)

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._signal(signal.SIGKILL)
        for process in self._members.values():
            process.wait()
        self._keeper.communicate()

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process; its log is `name`.log."""
        with self._log(name).open("wb") as log:
            self._members[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._logs,
                process_group=self._keeper.pid,
            )

    def ended(self) -> list[str]:
        """Return the names of the processes that have ended, in the order in which they were started."""
        return [name for name, process in self._members.items() if process.poll() is not None]

    def last_words(self, name: str) -> str:
        """Return a process's exit status and the line of its log that says most: its last error, or else its last line."""
        log = COLOUR.sub("", self._log(name).read_text(encoding="utf-8", errors="replace"))
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        telling = [line for line in lines if "Error:" in line or "error:" in line]
        line = (telling or lines or ["it printed nothing"])[-1][:LONGEST_LINE]
        status = self._members[name].poll()
        return f"{'still running' if status is None else f'exit status {status}'}, {line}"

    def ask_to_end(self) -> None:
        """Send SIGTERM to every process of the group, also to those that members have started."""
        self._signal(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        # The group is gone only if something else has killed its first member and all others.
        with suppress(ProcessLookupError):
            os.killpg(self._keeper.pid, number)

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
