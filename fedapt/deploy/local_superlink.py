"""A SuperLink and a SuperNode for each client, as processes on this machine, for one run.

The run itself, strategy and Gateway included, is in Flower's ServerApp process; what it reports is shown here.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import fedapt
from fedapt import errors
from fedapt.deploy.processes import ProcessGroup
from fedapt.errors import RunFailed, SetupError
from fedapt.plugins.loading import given_plugins
from fedapt.report.relay import Call, Calls, replay
from fedapt.report.terminal import Display
from fedapt.scenario import Scenario, dump_scenario

COMMANDS = ("flower-superlink", "flower-superexec", "flower-supernode", "flwr", "flwr-serverapp", "flwr-clientapp")
LINK, SERVER, RUN = "SuperLink", "SuperExec", "flwr run"
START_S = 60.0
FINISH_S = 30.0
POLL_S = 0.1

# Appended, not prepended: the folder may be site-packages, which must not hide the standard library.
APP = """\
import sys
sys.path.append({root!r})
from fedapt.plugins import load_plugins
load_plugins(*{plugins!r})
from fedapt.deploy.flower_app import client, server
__all__ = ["client", "server"]
"""
PROJECT = """\
[project]
name = "fedapt-run"
version = "1.0.0"
description = "One run of fedapt"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedapt"

[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"

[tool.flwr.app.config]
"""


def run_on_superlink(
    scenario: Scenario, root: Path, display: Display, *, resumed: Path | None = None, allow_inexact: bool = False
) -> Path:
    """Run a scenario, or go on with a run, as a Flower app on this machine, as `fedapt.run` does; return the run folder.

    No process is left, however it ends. Raises SetupError if Flower's commands are missing or do not start.
    """
    environment = _environment()
    with TemporaryDirectory(prefix="fedapt-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        report = _Report(Calls(folder / "calls"), display)
        _write_app(folder, scenario, root.absolute(), resumed, allow_inexact)
        with ProcessGroup(folder, environment | {"FLWR_HOME": name}) as group:
            try:
                _start(group, folder, scenario.clients.count)
                _follow(report, display, group)
            except BaseException:
                group.ask_to_end()
                report.show_results()
                raise
        return report.result()


class _Report:
    """What the run in the ServerApp says of itself, shown on this process's display."""

    def __init__(self, calls: Calls, display: Display) -> None:
        self._calls, self._display = calls, display
        self._end: Call | None = None

    def show(self) -> bool:
        """Show what is new; return whether the run is over."""
        for call in self._calls.new():
            if call[0] in ("done", "failed"):
                self._end = call
            else:
                replay(call, self._display)
        return self._end is not None

    def show_results(self) -> None:
        """Show what a run that was asked to end still writes: its results so far."""
        deadline = time.monotonic() + FINISH_S
        while not self.show() and self._calls.begun and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def fail(self, sentence: str) -> None:
        """Take the run as over without results, because nothing will be heard of it any more."""
        self._end = ("failed", ["RunFailed", sentence])

    def result(self) -> Path:
        """Return the folder of a run that is over; raises what has ended it early."""
        assert self._end is not None
        name, arguments = self._end
        if name == "done":
            return Path(arguments[0])
        kind, sentence = arguments
        known = getattr(errors, kind, None)
        raise known(sentence) if known else RunFailed(f"the run ended with {kind}: {sentence}; more is in its run.log")


def _environment() -> dict[str, str]:
    """Return the environment of Flower's processes, which find each other by name on PATH; raises SetupError."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    missing = [command for command in COMMANDS if not shutil.which(command, path=path)]
    if missing:
        raise SetupError(
            f"engine.kind superlink needs Flower's commands, and there is no {missing[0]} on PATH:"
            " pip install --force-reinstall 'flwr>=1.41,<1.42', or set engine.kind to inline"
        )
    # A proxy for the internet must not stand between the processes of one machine.
    direct = ",".join(filter(None, [os.environ.get("no_proxy", os.environ.get("NO_PROXY")), "127.0.0.1"]))
    return os.environ | {"PATH": path, "no_proxy": direct, "NO_PROXY": direct, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}


def _write_app(folder: Path, scenario: Scenario, results: Path, resumed: Path | None = None, allow_inexact: bool = False) -> None:
    """Write the Flower app of this one run, and its scenario."""
    (folder / "scenario.yaml").write_text(dump_scenario(scenario), encoding="utf-8")
    config = {
        "scenario": folder / "scenario.yaml",
        "calls": folder / "calls",
        "results": results,
        "resumed": resumed.absolute() if resumed else "",
        "allow-inexact": allow_inexact,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    # A JSON string is a TOML string as long as it is not made of \u pairs.
    lines = [f"{key} = {json.dumps(str(value), ensure_ascii=False)}\n" for key, value in config.items()]
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT + "".join(lines), encoding="utf-8")
    root = str(Path(fedapt.__file__).parents[1])
    (app / "app.py").write_text(APP.format(root=root, plugins=given_plugins()), encoding="utf-8")


def _start(group: ProcessGroup, folder: Path, clients: int) -> None:
    """Start all processes. The SuperLink's own way to start its ServerApp would put that into a group of its own."""
    port, *node_ports = _free_ports(1 + clients)
    address = f"127.0.0.1:{port}"
    listen = ["--host", "127.0.0.1", "--port"]
    group.start(LINK, ["flower-superlink", "--insecure", *listen, str(port), "--isolation", "process"])
    _wait_for_link(port, group)
    group.start(SERVER, ["flower-superexec", "--insecure", "--runtime-api-address", address])
    for client, node_port in enumerate(node_ports):
        node = ["flower-supernode", "--insecure", "--superlink", address, *listen, str(node_port)]
        group.start(f"client {client}", [*node, "--node-config", f"partition-id={client}"])
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{address}"\ninsecure = true\n'
    )
    group.start(RUN, ["flwr", "run", str(folder / "app"), "here", "--stream"])


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports


def _wait_for_link(port: int, group: ProcessGroup) -> None:
    deadline = time.monotonic() + START_S
    while not group.ended() and time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(POLL_S)
    raise SetupError(f"Flower's SuperLink did not start: {group.last_words(LINK)}")


def _follow(report: _Report, display: Display, group: ProcessGroup) -> None:
    """Show the run until it is over; raises RunFailed if a process that it cannot do without has ended."""
    known: set[str] = set()
    while True:
        ended = group.ended()
        if report.show():
            return
        for name in ended:
            if name in (LINK, SERVER):
                raise RunFailed(f"Flower's {name} has ended: {group.last_words(name)}")
            if name == RUN:
                return report.fail(f"Flower's ServerApp has ended before the run: {group.last_words(name)}")
            if name not in known:
                known.add(name)
                display.warning(f"the SuperNode of {name} has ended: {group.last_words(name)}")
        time.sleep(POLL_S)
