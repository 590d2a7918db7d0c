"""What a run takes of the machine that it runs on: disk and memory, beside what there is."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fedapt.cost.host import available_bytes
from fedapt.cost.ledger import LedgerRow
from fedapt.data import Federation
from fedapt.errors import SetupError
from fedapt.grid.visit import Arrays
from fedapt.record.ledger_file import encode
from fedapt.scenario import Scenario

# The page with its plots and their script, and small files.
REPORT_BYTES = 8 * 10**6
# The model, and with adaptive strategies two moments in float64.
MODELS_IN_A_STATE = 5
BYTES_OF_A_FLOAT = 4
# Of one update that is being summed: itself, in float64, in int64, and the sum.
BYTES_OF_A_SUM = 4 + 8 + 8 + 8
# The update of a reply that is not summed, the model made of it for the strategy, and what the most greedy rule makes of that.
BYTES_OF_A_REPLY = 4 + 4 + 32


@dataclass(frozen=True)
class Room:
    """Bytes that a run needs beyond what this process has, and bytes that are free; None where the system does not say."""

    disk_bytes: int
    disk_free_bytes: int
    memory_bytes: int
    memory_free_bytes: int | None


def require_engine(scenario: Scenario, output: Path) -> None:
    """Raise SetupError, as the run would, if its engine is not installed or its results have no place."""
    if scenario.engine.kind == "ray" and find_spec("ray") is None:
        raise SetupError("engine.kind ray needs Ray: pip install 'fedapt[sim]', or set engine.kind to inline")
    folder = nearest(output)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SetupError(f"{output}: no run folder can be made there. Choose a writable folder for the results.")


def nearest(path: Path) -> Path:
    """Return the path, or the closest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def room(
    scenario: Scenario, federation: Federation, arrays: Arrays, rows: Sequence[LedgerRow], workers: int, output: Path
) -> Room:
    """Return what all rounds need; rows: of a round with all clients."""
    found = available_bytes()
    return Room(
        disk_bytes=_disk_bytes(scenario, arrays, rows),
        disk_free_bytes=shutil.disk_usage(nearest(output)).free,
        memory_bytes=_memory_bytes(scenario, federation, arrays, workers),
        memory_free_bytes=found[0] if found else None,
    )


def _disk_bytes(scenario: Scenario, arrays: Arrays, rows: Sequence[LedgerRow]) -> int:
    """Return the most that the run folder holds at a time: a state is pruned when the next one is written.

    The ledgers of the rounds are there until they are written once more as one file.
    """
    model = sum(values.nbytes for values in arrays.values())
    layers = next((len(row.layer_bits) for row in rows if row.layer_bits), 0)
    ledger = len(encode(rows[: scenario.clients.per_round], [str(layer) for layer in range(layers)]))
    remembered = MODELS_IN_A_STATE + _models_a_client(scenario) * scenario.clients.count
    states = min(scenario.keep.models + 1, scenario.rounds) * remembered * model
    return states + model + 2 * ledger * scenario.rounds + REPORT_BYTES


def _memory_bytes(scenario: Scenario, federation: Federation, arrays: Arrays, workers: int) -> int:
    """Return what workers and replies take: a worker is like this process after the trial, but for the data, which it shares."""
    floats = sum(values.size for values in arrays.values())
    data = sum(values.nbytes for one in (federation.train, federation.test) for values in (one.inputs, one.labels))
    own = 0 if scenario.engine.kind == "inline" else workers * max(resident_bytes() - data, 0)
    remembered = _models_a_client(scenario) * scenario.clients.count * BYTES_OF_A_FLOAT * floats
    if scenario.strategy.linear:
        return own + remembered + (workers + 1) * BYTES_OF_A_SUM * floats
    of_a_client = BYTES_OF_A_REPLY + scenario.strategy.corrects * BYTES_OF_A_FLOAT
    return own + remembered + min(scenario.clients.per_round, scenario.clients.count) * of_a_client * floats


def _models_a_client(scenario: Scenario) -> int:
    """Return how many models the server holds for each client: what the strategy remembers, and what error feedback keeps."""
    return scenario.strategy.keeps_clients + any(group.method.link.error_feedback for group in scenario.clients.groups)


def resident_bytes() -> int:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
