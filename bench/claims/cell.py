"""One arm on one task in one setting with one seed: its scenario, and what it reached and spent under the papers' accounting."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.claims.arms import DATA, Arm, Task
from fedapt.cost.energy import TABLES, Account, layer_energy
from fedapt.cost.memory import training_memory
from fedapt.cost.trace import Trace
from fedapt.cost.workload import Workloads
from fedapt.data import load
from fedapt.errors import RunFailed
from fedapt.models import build
from fedapt.quant import OperandWidths
from fedapt.report.terminal import Display
from fedapt.results import Run, read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper

BATCH = 32
LAST_SCORES = 3
TEST_SAMPLES = 5_000
QAT_BITS = 8


class Cell(NamedTuple):
    """What identifies a result. setting: `federated` (100 clients, Dirichlet 0.3, ten a round) or `single`, one client."""

    task: str
    setting: str
    arm: str
    seed: int


def measure(cell: Cell, task: Task, arm: Arm) -> dict[str, Any]:
    """Run a cell and return its accuracy, bits and costs beside those in fp32 and 8-bit QAT; or how its run failed."""
    torch.set_num_threads(1)
    try:
        return _measured(cell, task, arm)
    except RunFailed as error:
        return {**cell._asdict(), "failure": str(error)}


def _measured(cell: Cell, task: Task, arm: Arm) -> dict[str, Any]:
    accounts = Accounts(scenario(cell, task, arm))
    wanted = scenario(cell, task, arm, accounts.memory_at(arm.mean_bits) if arm.mean_bits else None)
    with TemporaryDirectory() as folder, Stopper() as stopper:
        finished = read_run(run(wanted, Path(folder), Display(io.StringIO()), stopper))
        total = finished.summary["total"]
        return {
            **cell._asdict(),
            "accuracy": float(finished.rounds["accuracy"].dropna().iloc[-LAST_SCORES:].mean()),
            "energy_j": total["energy_j"],
            "memory_bytes": total["memory_bytes"],
            "wall_s": finished.summary["wall_s"],
            **accounts.of(finished),
        }


def stay_on_one_core(cores: Any) -> None:
    """Give each worker a core of its own, so that none waits for threads of another."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[cores.get()]})


def scenario(cell: Cell, task: Task, arm: Arm, memory_bytes: int | None = None) -> Scenario:
    """Return the scenario of a cell. memory_bytes: what training may use; None is all that the device has."""
    federated = cell.setting == "federated"
    rounds = task.rounds if federated else task.epochs
    data: dict[str, Any] = {
        "source": str(DATA / f"{cell.task}_train.parquet"),
        "samples": task.samples if federated else task.single_samples,
        "test_samples": TEST_SAMPLES,
        "partition": {"kind": "dirichlet", "alpha": 0.3} if federated else {"kind": "iid"},
        "held_out": 0.1 if federated else 0.0,
    }
    return Scenario.model_validate(
        {
            "version": 1,
            "name": "claims",
            "seed": cell.seed,
            "rounds": rounds,
            "data": data,
            "model": task.model,
            "clients": {
                "count": 100 if federated else 1,
                "per_round": 10 if federated else 1,
                "local": {"epochs": 1, "batch": BATCH, "lr": task.lr},
                "method": {"precision": dict(arm.precision), **arm.method},
                "groups": [{"profile": "raspberry-pi-4", "budget": {"memory": memory_bytes}}],
            },
            "evaluate": {"every": max(rounds // 8, 1)},
            "engine": {"kind": "inline"},
        }
    )


class Accounts:
    """The papers' accounts of one scenario: by bits of the parameters, by arithmetic of the matrix products, by bits moved."""

    def __init__(self, wanted: Scenario) -> None:
        federation = load(wanted.data, wanted.clients.count, wanted.seed)
        method = wanted.clients.groups[0].method
        self._operands = OperandWidths(method.activations, method.errors)
        self._master = method.precision.master

        def workloads(master: bool, operands: OperandWidths) -> Workloads:
            return Workloads(
                lambda: build(wanted.model, federation.data_shape, 0),
                federation.shape,
                federation.train.dtype,
                operands=operands,
                master=master,
                grid=method.precision.grid,
            )

        self._workload = workloads(self._master, self._operands).at()
        self._rival = workloads(True, OperandWidths()).at()
        self._layers = [shape.name for shape in self._workload.shapes if shape.weights]

    def memory_at(self, bits: int) -> int:
        """Return the peak memory of a step in which every layer has so many bits."""
        trace = self._workload.trace(dict.fromkeys(self._layers, bits))
        return training_memory(trace, BATCH, packed=True).total_bytes

    def of(self, finished: Run) -> dict[str, Any]:
        """Return the accounts of a finished run, means over its samples, and the highest bits of any round."""
        ledger = finished.ledger
        ledger = ledger[ledger["status"] == "ok"]
        by_round = ledger.groupby("round")["mean_bits"].mean()
        widths = ledger["layer_bits"].map(tuple)
        samples, steps = (ledger.groupby(widths)[column].sum() for column in ("samples", "steps"))
        traces = {bits: self._workload.trace(dict(zip(self._layers, bits, strict=True))) for bits in samples.index}
        bits = float(by_round.max())
        return {
            "bits": bits,
            "parameter_bits": bits + (32 if self._master else 0),
            "first_bits": float(by_round.iloc[0]),
            "gemm_by_weights": self._gemm(traces, samples, "weights"),
            "gemm_by_operands": self._gemm(traces, samples, "operands"),
            "moved_to_qat": self._moved(traces, steps),
        }

    def _gemm(self, traces: Mapping[Any, Trace], samples: Any, account: Account) -> dict[str, float]:
        """Return the energy of matrix products as a share of that in fp32, under each table."""
        products = {
            bits: [layer for layer in trace.layers if layer.shape.kind in ("linear", "conv")] for bits, trace in traces.items()
        }
        whole = sum(samples[bits] * sum(layer.sample_macs for layer in layers) for bits, layers in products.items())
        return {
            name: float(
                sum(
                    samples[bits] * sum(layer_energy(layer, table, account)[0] for layer in layers)
                    for bits, layers in products.items()
                )
                / whole
            )
            for name, table in TABLES.items()
        }

    def _moved(self, traces: Mapping[Any, Trace], steps: Any) -> float:
        """Return the bits of parameters moved as a share of those in 8-bit QAT."""
        rival = sum(layer.moved_bits for layer in self._rival.trace(dict.fromkeys(self._layers, QAT_BITS)).layers)
        moved = [steps[bits] * sum(layer.moved_bits for layer in trace.layers) for bits, trace in traces.items()]
        return float(np.sum(moved) / (rival * np.sum(steps)))
