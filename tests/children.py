"""The real command in its own processes, quickly: each is forked from a server that has loaded everything and started nothing."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.children_loaded"])


@dataclass
class Child:
    """A command under way; `printed` is a file with all that it prints."""

    process: multiprocessing.Process
    printed: Path

    def wait(self, timeout_s: float = 120) -> tuple[int, str]:
        """Return the exit status, minus the signal's number if one killed it, and what was printed."""
        self.process.join(timeout_s)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(self.printed.read_text())
        return self.process.exitcode, self.printed.read_text()

    def until(self, text: str, timeout_s: float = 60) -> None:
        """Wait until this text was printed."""
        deadline = time.monotonic() + timeout_s
        while text not in self.printed.read_text():
            if time.monotonic() > deadline or not self.process.is_alive():
                raise TimeoutError(self.printed.read_text())
            time.sleep(0.01)

    def kill(self, number: int = signal.SIGKILL) -> tuple[int, str]:
        """Send a signal and wait for the end."""
        os.kill(self.process.pid, number)
        return self.wait()


def start(folder: Path, *arguments: object, largest_file: int | None = None, **environment: str) -> Child:
    """Start `fedapt` with these arguments; what it prints goes to a file in `folder`."""
    printed = folder / f"printed-{len(list(folder.glob('printed-*')))}"
    printed.touch()
    process = CONTEXT.Process(target=_main, args=([str(a) for a in arguments], printed, largest_file, environment))
    process.start()
    return Child(process, printed)


def fedapt(folder: Path, *arguments: object, **options: object) -> tuple[int, str]:
    """Run a command to its end."""
    return start(folder, *arguments, **options).wait()


def _main(arguments: list[str], printed: Path, largest_file: int | None, environment: dict[str, str]) -> None:
    from fedapt.cli import main

    output = os.open(printed, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update(environment)
    sys.argv = ["fedapt", *arguments]
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    main()
