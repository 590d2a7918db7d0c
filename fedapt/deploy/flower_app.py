"""fedapt as a Flower app: the run is the ServerApp, the clients are the ClientApp.

The app's run-config names a scenario file; a SuperNode's node-config gives, as `partition-id`, the number of its client.
"""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid, ServerApp

from fedapt.clients.app import client_app
from fedapt.clients.client import Client
from fedapt.clients.faulty import Accident, faulty
from fedapt.data import load
from fedapt.enrolment import enrol
from fedapt.errors import RunFailed
from fedapt.grid.superlink import SuperLink
from fedapt.grid.workshop import Workshop
from fedapt.report.relay import Relay
from fedapt.report.terminal import Display
from fedapt.resuming import resume
from fedapt.run import run
from fedapt.scenario import load_scenario
from fedapt.stopping import Stopper

server = ServerApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario and tell whoever started it, through the file `calls`, all that a Display would show and how it ended."""
    config = {name: str(value) for name, value in context.run_config.items()}
    # The results name the command that the user gave, and not Flower's with its access token.
    sys.argv = shlex.split(config["command"])
    relay = Relay(Path(config["calls"]))
    try:
        scenario = load_scenario(config["scenario"])
        transport = SuperLink(grid, answer_s=scenario.engine.task_timeout_s)
        with Stopper() as stopper:
            display = cast(Display, relay)
            if config["resumed"]:
                inexact = config["allow-inexact"] == str(True)
                path = resume(Path(config["resumed"]), display, stopper, allow_inexact=inexact, transport=transport)
            else:
                path = run(scenario, Path(config["results"]), display, stopper, transport)
    except BaseException as error:
        relay.failed(type(error).__name__, str(error))
        raise
    relay.done(path)


def _client_of(context: Context) -> Client:
    return _clients(str(context.run_config["scenario"]))(int(context.node_config["partition-id"]))


@functools.cache
def _workshop(scenario_path: str) -> Workshop:
    """Load the data and the model once in a process."""
    scenario = load_scenario(scenario_path)
    torch.set_num_threads(scenario.engine.threads)
    federation = load(scenario.data, scenario.clients.count, scenario.seed)
    return enrol(scenario, federation).workshop


@functools.cache
def _clients(scenario_path: str) -> Callable[[int], Client]:
    return _workshop(scenario_path).clients()


def _with_faults(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let the scenario's faults happen; Flower's process is not ours to kill, so an accident fails the client for the round."""
    faults = _workshop(str(context.run_config["scenario"])).faults
    try:
        return faulty(faults, _client_of)(message, context, call_next)
    except Accident as accident:
        raise RunFailed(str(accident)) from None


client = client_app(_client_of, [_with_faults])
