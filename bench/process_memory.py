"""Peak resident memory of a client process that trains an MLP of 20 million weights: float, 8-bit QAT and one 8-bit copy.

    python -m bench.process_memory            a minute
    python -m bench.process_memory --batch 4

Each method runs in a process of its own that is sent a model, trains it for two steps and makes its reply, as a client on a board
does. `idle` is the same process without a model: Python, PyTorch and fedapt. Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from fedapt.clients.client import Client
from fedapt.clients.continual import METHODS
from fedapt.clients.instructions import Instructions
from fedapt.clients.samples import FILTERS
from fedapt.data import DataShape
from fedapt.data.examples import Examples
from fedapt.models import MODELS, build
from fedapt.quant import FLOAT_BITS, CodedWeight, FloatWeight, Grid, GridOptions
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.weight import Weight
from fedapt.quant.wire import QuantisedModel, to_bytes

HIDDEN = [1450] * 10
SHAPE = DataShape((1, 28, 28), 10)
STEPS = 2
BITS = {"fp32": FLOAT_BITS, "qat 8": FLOAT_BITS, "one copy of 8 bits": 8}


def train(message: bytes, batch: int) -> None:
    """Train what a message brings in this process, whose peak the parent reads."""
    torch.set_num_threads(1)
    rows = np.arange(STEPS * batch)
    pixels = np.random.default_rng(0).integers(0, 256, (len(rows), *SHAPE.shape)).astype(np.uint8)
    examples = Examples(pixels, rows % SHAPE.classes, np.zeros(1, np.float32), np.ones(1, np.float32))
    Client(skeleton(), examples, rows, rows[:0], FILTERS["all"](), METHODS["none"]()).train(message)


def skeleton() -> Skeleton:
    """Return the model without its weights."""
    options = MODELS["mlp"].model_validate({"kind": "mlp", "hidden": HIDDEN})
    return Skeleton(lambda: build(options, SHAPE, 0))


def message_for(method: str, batch: int) -> bytes:
    """Return what a server sends: weights in the middle of their range, and what to do."""
    model, weights = skeleton(), dict[str, Weight]()
    for name, layer in model.quantised.layers.items():
        shape, scale = layer.weight.shape, torch.full((layer.weight.shape[0],), 1e-3)
        codes = CodedWeight(torch.full(shape, 128, dtype=torch.uint8), Grid(scale, torch.full_like(scale, 128.0), 8))
        weights[name] = FloatWeight(torch.zeros(shape)) if BITS[method] == FLOAT_BITS else codes
    told = Instructions(
        seed=0,
        round=0,
        client=0,
        epochs=1,
        batch=batch,
        lr=0.01,
        rounding="stochastic",
        grid=GridOptions(),
        copies=dict.fromkeys(weights, 8) if method == "qat 8" else {},
    )
    return to_bytes(QuantisedModel(weights, model.unload().floats), {"instructions": told.model_dump()})


def peak_mib(method: str, batch: int) -> float:
    """Return the peak resident memory of a child that is sent a model; of one that is sent nothing, for `idle`."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "message"
        path.write_bytes(message_for(method, batch) if method in BITS else b"")
        command = [sys.executable, "-m", "bench.process_memory", "--child", str(path), "--batch", str(batch)]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def own_peak_mib() -> float:
    """Return the peak of this process since it began its program: `ru_maxrss` would count what its parent held when it forked."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Measure each method in a process of its own and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="samples in a step (default 8)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if options.child.stat().st_size:
            train(options.child.read_bytes(), options.batch)
        print(own_peak_mib())
        return
    for line in measured(options.batch):
        print(f"{line['method']:20} {line['peak_mib']:7.0f} MiB   {line['above_idle_mib']:7.0f} MiB above idle")


def measured(batch: int) -> list[dict[str, Any]]:
    """Return the peak of each method, and what it is above an idle process."""
    idle = peak_mib("idle", batch)
    peaks = {"idle": idle} | {method: peak_mib(method, batch) for method in BITS}
    return [{"method": method, "peak_mib": peak, "above_idle_mib": peak - idle} for method, peak in peaks.items()]


if __name__ == "__main__":
    main()
