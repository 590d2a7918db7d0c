"""Flower's own simulation at its best practice: model and data cached in the actor, one thread a client, logs off.

This module is imported by name in the actors, so that a message carries a reference to the client and not its code.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import flwr
import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from bench.engine.local import train
from bench.engine.work import Played, Work

WORK = "BENCH_ENGINE_WORK"
app = ClientApp()


@cache
def cached() -> tuple[Work, torch.nn.Module, list[torch.Tensor]]:
    """Return the work and the model of this process."""
    torch.set_num_threads(1)
    work = Work.read(Path(os.environ[WORK]))
    model = work.net()
    return work, model, list(model.parameters())


@app.train()
def on_train(message: Message, context: Context) -> Message:
    """Train the client whose place in the cohort the message says."""
    work, model, parameters = cached()
    told, sent = message.content.config_records["config"], message.content.array_records["arrays"]
    with torch.no_grad():
        for parameter, values in zip(parameters, sent.values(), strict=True):
            parameter.copy_(torch.from_numpy(values.numpy()))
    inputs, labels = work.data(int(str(told["round"])), int(str(told["place"])))
    train(model, parameters, work.workload, inputs, labels)
    arrays = ArrayRecord({name: Array(values.detach().numpy()) for name, values in model.named_parameters()})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": len(labels)})})
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    """Flower's FedAvg, which tells each node the place in the cohort that it plays, and notes when rounds end."""

    def __init__(self, cohort: int, clients: int) -> None:
        super().__init__(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=cohort, min_available_nodes=clients)
        self.cohort, self.ends_s = cohort, list[float]()

    def configure_train(self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid) -> Iterable[Message]:
        """Send the model to as many nodes as the cohort has."""
        while len(nodes := list(grid.get_node_ids())) < self.min_available_nodes:
            time.sleep(0.01)
        for place, node in enumerate(nodes[: self.cohort]):
            told = ConfigRecord({"round": server_round - 1, "place": place})
            yield Message(RecordDict({"arrays": arrays, "config": told}), dst_node_id=node, message_type=MessageType.TRAIN)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[Any, Any]:
        """Average as Flower does; raises RuntimeError if a client is missing, for then less was done than asked."""
        replies = list(replies)
        failed = [reply for reply in replies if reply.has_error()]
        if failed or len(replies) != self.cohort:
            raise RuntimeError(f"{len(failed)} of {len(replies)} replies failed, {self.cohort} were expected: {failed[:1]}")
        averaged = super().aggregate_train(server_round, replies)
        self.ends_s.append(time.monotonic())
        return averaged


def play(work: Work, workers: int) -> Played:
    """Play all rounds in Flower's simulation."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    os.environ[WORK] = str(work.folder)
    workload = work.workload
    strategy = Timed(workload.cohort, workload.clients)
    weights: dict[str, np.ndarray] = {}
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        initial = ArrayRecord({name: Array(values) for name, values in work.initial.items()})
        result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=workload.rounds)
        weights.update({name: values.numpy() for name, values in result.arrays.items()})

    settings: dict[str, Any] = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": workers, "logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False},
    }
    run_simulation(server, app, workload.clients, backend_config=settings)
    if len(strategy.ends_s) != workload.rounds:
        raise RuntimeError(f"Flower played {len(strategy.ends_s)} of {workload.rounds} rounds")
    return Played(strategy.ends_s, weights, {"flwr": flwr.__version__})
