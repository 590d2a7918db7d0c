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
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import fedapt
from fedapt import errors
from fedapt.errors import FedaptError, RunFailed, SetupError
from fedapt.processes import ProcessGroup
from fedapt.report.relay import Call, Calls, replay
from fedapt.report.terminal import Display
from fedapt.scenario import Scenario, dump_scenario

COMMANDS = ("flower-superlink", "flower-superexec", "flower-supernode", "flwr", "flwr-serverapp", "flwr-clientapp")
LINK, SERVER, RUN = "superlink", "server", "flwr-run"
START_S = 60.0
FINISH_S = 30.0
POLL_S = 0.1

# Appended, not prepended: the folder may be site-packages, which must not hide the standard library.
APP = """\
import sys
sys.path.append({root!r})
from fedapt.flower_app import client, server
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


def run_on_superlink(scenario: Scenario, root: Path, display: Display) -> Path:
    """Run a scenario as a Flower app on this machine and return the run folder, as `fedapt.run.run` does.

    No process is left, however it ends. Raises SetupError if Flower's commands are missing or do not start.
    """
    environment = _environment()
    with TemporaryDirectory(prefix="fedapt-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        calls = Calls(folder / "calls")
        _write_app(folder, scenario, root.absolute())
        with ProcessGroup(folder, environment | {"FLWR_HOME": name}) as group:
            try:
                _start(group, folder, scenario.clients.count)
                return _follow(calls, display, group)
            except FedaptError:
                raise
            except BaseException:
                group.ask_to_end()
                _show_the_end(calls, display)
                raise


def _environment() -> dict[str, str]:
    """Return the environment of Flower's processes, which find each other by name on PATH; raises SetupError."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    missing = [command for command in COMMANDS if not shutil.which(command, path=path)]
    if missing:
        raise SetupError(
            f"engine.kind superlink needs Flower's commands, and there is no {missing[0]} on PATH:"
            " pip install --force-reinstall 'flwr>=1.41,<1.42', or set engine.kind to inline"
        )
    return os.environ | {"PATH": path, "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}


def _write_app(folder: Path, scenario: Scenario, results: Path) -> None:
    """Write the Flower app, and where `flwr run` finds the SuperLink will follow once its port is known."""
    (folder / "scenario.yaml").write_text(dump_scenario(scenario), encoding="utf-8")
    config = {
        "scenario": folder / "scenario.yaml",
        "calls": folder / "calls",
        "results": results,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    # A JSON string is a TOML string as long as it is not made of \\u pairs.
    lines = [f"{key} = {json.dumps(str(value), ensure_ascii=False)}\n" for key, value in config.items()]
    app = folder / "app"
    app.mkdir()
    (app / "pyproject.toml").write_text(PROJECT + "".join(lines), encoding="utf-8")
    (app / "app.py").write_text(APP.format(root=str(Path(fedapt.__file__).parents[1])), encoding="utf-8")


def _start(group: ProcessGroup, folder: Path, clients: int) -> None:
    """Start all processes. The SuperLink's own way to start its ServerApp would put that into a group of its own."""
    port, *node_ports = _free_ports(1 + clients)
    address = f"127.0.0.1:{port}"
    listen = ["--host", "127.0.0.1", "--port"]
    group.start(LINK, ["flower-superlink", "--insecure", *listen, str(port), "--isolation", "process"])
    _wait(lambda: _answers(port), group)
    group.start(SERVER, ["flower-superexec", "--insecure", "--runtime-api-address", address])
    for client, node_port in enumerate(node_ports):
        node = ["flower-supernode", "--insecure", "--superlink", address, *listen, str(node_port)]
        group.start(f"client-{client}", [*node, "--node-config", f"partition-id={client}"])
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


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _wait(ready: Callable[[], bool], group: ProcessGroup) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        if group.ended() or time.monotonic() > deadline:
            raise SetupError(f"Flower's SuperLink did not start: {group.last_words(LINK)}")
        time.sleep(POLL_S)


def _follow(calls: Calls, display: Display, group: ProcessGroup) -> Path:
    """Show the run until it is done, and return its folder; raises what has ended it, or RunFailed if that is not known."""
    known: set[str] = set()
    while True:
        ended = group.ended()
        for call in calls.new():
            if path := _take(call, display):
                return path
        for name in ended:
            if name in (LINK, SERVER, RUN):
                raise RunFailed(f"Flower's process {name} ended before the run did: {group.last_words(name)}")
            if name not in known:
                known.add(name)
                display.warning(f"the SuperNode of {name} has ended: {group.last_words(name)}")
        time.sleep(POLL_S)


def _take(call: Call, display: Display) -> Path | None:
    """Show one call; return the run folder if it says that the run is done, raise what it says has ended the run."""
    name, arguments = call
    if name == "done":
        return Path(arguments[0])
    if name == "failed":
        kind, sentence = arguments
        known = getattr(errors, kind, None)
        raise known(sentence) if known else RunFailed(f"the ServerApp ended with {kind}: {sentence}; see the run's run.log")
    replay(call, display)
    return None


def _show_the_end(calls: Calls, display: Display) -> None:
    """Show what a run that was asked to end still says: its results so far."""
    deadline = time.monotonic() + FINISH_S
    while calls.begun and time.monotonic() < deadline:
        for call in calls.new():
            if call[0] in ("done", "failed"):
                return
            replay(call, display)
        time.sleep(POLL_S)
