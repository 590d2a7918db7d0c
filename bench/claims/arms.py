"""What is compared: precision policies, and the data and settings that each of them is run on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("FEDAPT_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
T_MINS = (1, 6, 24)
MEAN_BITS = (3, 4, 6)
# Asks for 8 bits everywhere, so that the memory budget alone decides.
ASKS_FOR_MUCH = {"kind": "budget", "least_bits": 8, "most_bits": 8, "lowest_bits": 2}


@dataclass(frozen=True)
class Arm:
    """One way to train. mean_bits: the client's memory is what a step at so many bits everywhere needs; None: no budget."""

    precision: Mapping[str, Any]
    mean_bits: int | None = None
    method: Mapping[str, Any] = field(default_factory=dict)


ARMS: dict[str, Arm] = {
    "fp32": Arm({"kind": "fp32"}),
    "qat 8": Arm({"kind": "qat", "bits": 8}),
    **{f"truncating {bits}": Arm({"kind": "fixed", "bits": bits, "rounding": "truncate"}) for bits in (8, 12, 16)},
    **{f"stochastic {bits}": Arm({"kind": "fixed", "bits": bits}) for bits in (4, 6, 8)},
    **{f"apt {t_min}": Arm({"kind": "apt", "t_min": float(t_min)}) for t_min in T_MINS},
    "apt 6, every 3 batches": Arm({"kind": "apt", "t_min": 6.0, "every_batches": 3}),
    "rct": Arm({"kind": "rct"}),
    "budget": Arm({"kind": "budget"}),
    **{f"budget {bits}": Arm(ASKS_FOR_MUCH, bits) for bits in MEAN_BITS},
    "budget 4, 6-bit operands": Arm(ASKS_FOR_MUCH, 4, {"activations": 6, "errors": 6}),
}


@dataclass(frozen=True)
class Task:
    """A data set with the model and the settings that it is trained with.

    samples, single_samples: of the whole federation, and of the one client; rounds, epochs: how long they train.
    """

    model: str
    lr: float
    samples: int | None
    rounds: int
    single_samples: int | None
    epochs: int


TASKS = {
    "fashion_mnist": Task("cnn", 0.1, 30_000, 30, 8_000, 6),
    "cifar10": Task("cnn", 0.1, 10_000, 40, 6_000, 6),
    "banking77": Task("text", 1.0, None, 60, None, 12),
}
QUICK_ARMS = ("fp32", "qat 8", "truncating 8", "stochastic 4", "apt 6", "rct", "budget 4", "budget 3", "budget 4, 6-bit operands")
QUICK = {
    "fashion_mnist": Task("cnn", 0.1, 20_000, 8, 4_000, 4),
    "banking77": Task("text", 1.0, None, 20, None, 8),
}
