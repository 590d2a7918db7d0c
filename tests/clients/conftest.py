"""Small clients: two models, forty samples of three classes, and the messages that a server would send."""

import numpy as np
import pytest
import torch
from torch import nn

from fedapt.clients.client import Client
from fedapt.clients.continual import METHODS
from fedapt.clients.instructions import Instructions
from fedapt.clients.samples import FILTERS
from fedapt.data.examples import Examples
from fedapt.quant import GridOptions, quantisable
from fedapt.quant.skeleton import Skeleton, float_arrays
from fedapt.quant.wire import quantise_arrays, to_bytes


def dense():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))


def moody():
    """A model whose layers draw numbers and count batches."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, momentum=None)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), norm, nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(48, 3))


def examples(count=40):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, count)
    inputs = rng.integers(0, 200, (count, 1, 3, 4)).astype(np.uint8)
    inputs[np.arange(count), 0, labels] += 55
    return Examples(inputs, labels, np.array([0.4], np.float32), np.array([0.2], np.float32))


def client(model, rows=range(30), held_out=range(30, 40), skeleton=None, **seams):
    """Return a client with these row numbers; `seams` replace the filter and the continual method."""
    skeleton = skeleton or Skeleton(model)
    seams = {"samples": FILTERS["all"](), "continual": METHODS["none"]()} | seams
    return Client(skeleton, examples(), np.array(rows, dtype=np.int64), np.array(held_out, dtype=np.int64), **seams)


def start_of(model, bits, grid):
    float_model = model()
    arrays = {name: values.numpy() for name, values in float_arrays(float_model).items()}
    widths = dict.fromkeys(quantisable(float_model), bits)
    return quantise_arrays(arrays, widths, grid, "stochastic", torch.Generator().manual_seed(1))


def message(model, bits=4, **changes):
    """Return a message with a freshly quantised model and instructions; `changes` replace fields of the instructions."""
    fields = {"seed": 5, "round": 2, "client": 7, "epochs": 1, "batch": 8, "lr": 0.1, "rounding": "stochastic"}
    instructions = Instructions(**({"grid": GridOptions()} | fields | changes))
    return to_bytes(start_of(model, bits, instructions.grid), {"instructions": instructions.model_dump()})


@pytest.fixture
def trains():
    """Return a function that trains a client of `dense` once and returns its reply."""
    return lambda bits=4, rows=range(30), **changes: client(dense, rows).train(message(dense, bits, **changes))
