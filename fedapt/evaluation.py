"""Accuracy of the global model on the test set, in float, on every core: the workers are idle then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from fedapt.data import DataShape, Examples
from fedapt.environment import usable_cores
from fedapt.models import build
from fedapt.models.model import ModelOptions

BATCH = 500


class Score(NamedTuple):
    """accuracy: share of correct answers; loss: mean cross-entropy; None if it was not evaluated."""

    accuracy: float | None
    loss: float | None


UNKNOWN = Score(None, None)


class Evaluator:
    """Evaluates models of one architecture on one test set."""

    def __init__(self, model: ModelOptions, test: Examples, classes: int, threads: int) -> None:
        self._model = build(model, DataShape(test.inputs.shape[1:], classes, test.vocabulary), 0).eval()
        self._test, self._threads = test, threads

    def score(self, arrays: Mapping[str, np.ndarray]) -> Score:
        """Evaluate the model with these weights by parameter name."""
        self._model.load_state_dict({name: torch.from_numpy(values) for name, values in arrays.items()}, strict=False)
        correct, loss, count = 0, 0.0, len(self._test.labels)
        torch.set_num_threads(usable_cores())
        try:
            with torch.no_grad():
                for first in range(0, count, BATCH):
                    inputs, labels = self._test.batch(np.arange(first, min(first + BATCH, count)))
                    logits = self._model(inputs)
                    correct += int((logits.argmax(1) == labels).sum())
                    loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        finally:
            torch.set_num_threads(self._threads)
        return Score(correct / count, loss / count)
