"""A prepared workload as the contestants that know nothing of fedapt read it: plain arrays in one file.

The clients of a round and the order of their samples are those of fedapt's own streams, written down, so that every contestant
takes the same steps and none spends time on drawing them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench.engine.nets import net
from bench.engine.workloads import Workload

Weights = dict[str, npt.NDArray[np.float32]]
INITIAL = "initial/"


@dataclass(frozen=True)
class Work:
    """A prepared workload in its folder."""

    folder: Path
    workload: Workload

    @staticmethod
    def read(folder: Path) -> Work:
        """Read what `write` has written; the arrays follow when they are asked for."""
        said = json.loads((folder / "workload.json").read_text(encoding="utf-8"))
        return Work(folder, Workload(**said | {"hidden": tuple(said["hidden"])}))

    def write(self, arrays: dict[str, npt.NDArray[np.generic]], initial: Weights) -> None:
        """Write inputs, labels (n,), test_inputs, test_labels, cohorts (rounds, cohort), orders (rounds, cohort, samples)."""
        np.savez(self.folder / "work.npz", **arrays, **{INITIAL + name: values for name, values in initial.items()})  # type: ignore[arg-type]
        (self.folder / "workload.json").write_text(json.dumps(asdict(self.workload)), encoding="utf-8")

    @cached_property
    def _arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """All arrays but the test set, which no contestant needs."""
        with np.load(self.folder / "work.npz") as file:
            return {name: file[name] for name in file.files if not name.startswith("test_")}

    @cached_property
    def inputs(self) -> Tensor:
        """The training inputs, standardised, float32."""
        return torch.from_numpy(self._arrays["inputs"])

    @cached_property
    def labels(self) -> Tensor:
        """The training labels, int64."""
        return torch.from_numpy(self._arrays["labels"])

    @property
    def cohorts(self) -> npt.NDArray[np.int64]:
        """The clients of each round (rounds, cohort)."""
        return self._arrays["cohorts"]  # type: ignore[return-value]

    @cached_property
    def orders(self) -> Tensor:
        """The rows that each client of each round trains on, in the order of its steps (rounds, cohort, samples)."""
        return torch.from_numpy(self._arrays["orders"])

    @property
    def initial(self) -> Weights:
        """The weights before the first round, by parameter name."""
        named = {name: values for name, values in self._arrays.items() if name.startswith(INITIAL)}
        return {name.removeprefix(INITIAL): values for name, values in named.items()}  # type: ignore[misc]

    def net(self) -> nn.Module:
        """Return the model with the initial weights."""
        model = net(self.workload.model, self.workload.hidden, tuple(self.inputs.shape[1:]))
        model.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in self.initial.items()})
        return model

    def data(self, round: int, place: int) -> tuple[Tensor, Tensor]:
        """Return the samples of the client at this place of a round's cohort, in the order of its steps."""
        rows = self.orders[round, place]
        return self.inputs[rows], self.labels[rows]

    def score(self, weights: Weights) -> float:
        """Return the accuracy of these weights on the test set."""
        model = self.net()
        model.load_state_dict({name: torch.from_numpy(values) for name, values in weights.items()})
        with np.load(self.folder / "work.npz") as file, torch.no_grad():
            inputs, labels = torch.from_numpy(file["test_inputs"]), torch.from_numpy(file["test_labels"])
            right = 0
            for part, truth in zip(torch.split(inputs, 500), torch.split(labels, 500), strict=True):
                right += int((model(part).argmax(1) == truth).sum())
        return right / len(labels)


@dataclass(frozen=True)
class Played:
    """What a contestant hands back. ends_s: when each round ended, by time.monotonic; weights: after the last."""

    ends_s: list[float]
    weights: Weights
    facts: dict[str, str]
