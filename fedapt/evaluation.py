"""Accuracy of the global model on the test set, in float, on every core: the workers are idle then.

Each batch is one thread's, and what batches come to is added in their order: the same bits on any number of cores.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from fedapt.data import DataShape, Examples
from fedapt.environment import usable_cores
from fedapt.models import build
from fedapt.models.model import ModelOptions

# What a convolution makes of more images leaves a core's cache, and takes twice the time.
BATCH = 100


class Score(NamedTuple):
    """accuracy: share of correct answers; loss: mean cross-entropy; None if it was not evaluated."""

    accuracy: float | None
    loss: float | None


UNKNOWN = Score(None, None)


class Evaluator:
    """Evaluates models of one architecture on one test set. channels_last: how images are laid out."""

    def __init__(self, model: ModelOptions, test: Examples, classes: int, threads: int, *, channels_last: bool = False) -> None:
        self._model = build(model, DataShape(test.inputs.shape[1:], classes, test.vocabulary), 0).eval()
        self._test, self._threads = test, threads
        images = channels_last and test.inputs.ndim == 4
        self._layout = torch.channels_last if images else torch.contiguous_format
        batches = -(-len(test.labels) // BATCH)
        self._models = [_sharing_weights(self._model) for _ in range(min(usable_cores(), batches))]

    def score(self, arrays: Mapping[str, np.ndarray]) -> Score:
        """Evaluate the model with these weights by parameter name."""
        self._model.load_state_dict({name: torch.from_numpy(values) for name, values in arrays.items()}, strict=False)
        count = len(self._test.labels)
        batches = iter(range(0, count, BATCH))
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(len(self._models)) as pool:
                try:
                    found = dict(chain.from_iterable(pool.map(self._scores, self._models, [batches] * len(self._models))))
                finally:
                    # Whatever ends the evaluation early: threads finish their batch, and find no other.
                    for _ in batches:
                        pass
        finally:
            torch.set_num_threads(self._threads)
        correct, loss = (sum(of) for of in zip(*(found[first] for first in sorted(found)), strict=True))
        return Score(correct / count, loss / count)

    def _scores(self, model: nn.Module, batches: Iterator[int]) -> list[tuple[int, tuple[int, float]]]:
        """Take batches, by their first row, until none is left; return of each how many answers are correct, and its loss."""
        found = []
        with torch.no_grad():
            for first in batches:
                inputs, labels = self._test.batch(np.arange(first, min(first + BATCH, len(self._test.labels))))
                logits = model(inputs.contiguous(memory_format=self._layout))
                correct = int((logits.argmax(1) == labels).sum())
                found.append((first, (correct, float(F.cross_entropy(logits, labels, reduction="sum")))))
        return found


def _sharing_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model for one thread: what its layers note while they work is its own, its weights are not."""
    weights = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(values): values for values in weights})
