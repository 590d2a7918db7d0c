"""pfl-research as its own benchmarks use it: a PyTorchModel, its FederatedAveraging, users' tensors made beforehand.

With several processes they reduce by gloo, as under torchrun; the caller starts the others.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.engine.work import Played, Work


class Adapter(nn.Module):
    """The model with the two methods that pfl asks for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def loss(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        return F.cross_entropy(self.inner(inputs), labels)

    def metrics(self, inputs: Tensor, labels: Tensor) -> dict[str, Any]:
        """Return nothing: no contestant evaluates its clients."""
        return {}


def launch(ranks: int) -> list[subprocess.Popen[bytes]]:
    """Start the other processes with this one's command line, and make this one rank 0; before pfl is imported."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "TORCHELASTIC_RUN_ID": "bench"}
    os.environ |= shared
    command = [sys.executable, "-m", "bench.engine.child", *sys.argv[1:]]
    others = [subprocess.Popen(command, env=os.environ | {"RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(1, ranks)]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}
    return others


def play(work: Work, workers: int) -> Played:
    """Play all rounds in one process."""
    return _play(work)


def play_all(work: Work, workers: int) -> Played:
    """Play all rounds in one process a core; called in each of them, and in rank 0 first."""
    others = launch(workers) if "RANK" not in os.environ else []
    try:
        return _play(work)
    finally:
        for other in others:
            other.wait(timeout=60)


def _play(work: Work) -> Played:
    logging.disable(logging.WARNING)
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    torch.set_num_threads(1)
    # pfl draws from numpy's global stream, and its processes must draw alike; none of it decides a result here.
    np.random.seed(0)  # noqa: NPY002
    workload = work.workload
    adapter = Adapter(work.net())

    class Clock(TrainingProcessCallback):  # type: ignore[misc]
        """Notes when rounds end, and starts the next cohort."""

        def __init__(self) -> None:
            self.ends_s, self.asked = list[float](), 0

        def after_central_iteration(self, metrics: Any, model: Any, *, central_iteration: int) -> tuple[bool, Any]:
            """Go on."""
            self.ends_s.append(time.monotonic())
            self.asked = 0
            return False, Metrics()

        def place(self) -> int:
            """Return the place in the cohort of the user that is asked for next."""
            self.asked += 1
            return (self.asked - 1) % workload.cohort

    clock = Clock()
    dataset = FederatedDataset(
        lambda place: PyTorchTensorDataset(work.data(len(clock.ends_s), place), user_id=str(place)), clock.place
    )
    model = PyTorchModel(adapter, torch.optim.SGD, torch.optim.SGD(adapter.parameters(), lr=1.0))
    training = NNTrainHyperParams(
        local_num_epochs=workload.epochs, local_learning_rate=workload.lr, local_batch_size=workload.batch
    )
    rounds = NNAlgorithmParams(
        central_num_iterations=workload.rounds,
        evaluation_frequency=10**9,
        train_cohort_size=workload.cohort,
        val_cohort_size=None,
    )
    algorithm = _without_evaluation(FederatedAveraging)()
    algorithm.run(rounds, SimulatedBackend(dataset, None), model, training, callbacks=[clock], send_metrics_to_platform=False)
    weights = {name: values.detach().numpy() for name, values in adapter.inner.named_parameters()}
    return Played(clock.ends_s, weights, {"pfl": version("pfl")})


def _without_evaluation(algorithm: Any) -> Any:
    """Return the algorithm without the evaluation of every client before and after its first round, which no other does."""
    from dataclasses import replace

    class Plain(algorithm):  # type: ignore[misc]
        def get_next_central_contexts(self, *args: Any, **named: Any) -> Any:
            contexts, model, metrics = super().get_next_central_contexts(*args, **named)
            return contexts and tuple(replace(one, do_evaluation=False) for one in contexts), model, metrics

    return Plain
