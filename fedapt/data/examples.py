"""Labelled examples in one shared read-only buffer, normalised a batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Inputs = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

STATISTICS_ROWS = 10_000


@dataclass(frozen=True)
class DataShape:
    """What a model has to know of its data.

    shape:      of one input: (channels, height, width) of images, (channels, steps) of signals, (features,), (length,) of tokens.
    vocabulary: tokens are 0 .. vocabulary - 1, of which 0 is padding; 0 if the inputs are numbers.
    """

    shape: tuple[int, ...]
    classes: int
    vocabulary: int = 0


@dataclass(frozen=True, eq=False)
class Examples:
    """Plain arrays, so that Ray's object store shares them without a copy.

    inputs: (n, *shape) uint8 images (channels, height, width), float32 signals or features, or tokens of any unsigned type.
    labels: (n,) int64.
    mean, std: (shape[0],) float32, of each channel or feature, after division by 255 for uint8; empty for tokens.
    vocabulary: how many tokens there are, padding included; 0 if the inputs are numbers.
    """

    inputs: npt.NDArray[Any]
    labels: Ints
    mean: Floats
    std: Floats
    vocabulary: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """The type of the inputs in a batch."""
        import torch

        return torch.int64 if self.vocabulary else torch.float32

    def batch(self, rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs (b, *shape) and the labels (b,) int64 of these rows, both fresh copies.

        Inputs are normalised float32, or int64 tokens.
        """
        import torch

        if self.vocabulary:
            return torch.from_numpy(self.inputs[rows].astype(np.int64)), torch.from_numpy(self.labels[rows])
        inputs = self.inputs[rows].astype(np.float32)
        if self.inputs.dtype == np.uint8:
            inputs /= np.float32(255)
        channels = (-1,) + (1,) * (inputs.ndim - 2)
        inputs -= self.mean.reshape(channels)
        inputs /= self.std.reshape(channels)
        return torch.from_numpy(inputs), torch.from_numpy(self.labels[rows])


def statistics(inputs: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Return the mean and standard deviation of each channel (or feature), from at most 10,000 evenly spaced rows.

    A channel that never changes gets a deviation of 1, so that it normalises to zero.
    """
    rows = np.linspace(0, len(inputs) - 1, min(len(inputs), STATISTICS_ROWS)).astype(np.int64)
    scale = 255.0 if inputs.dtype == np.uint8 else 1.0
    sample = inputs[rows].reshape(len(rows), inputs.shape[1], -1)
    mean = sample.mean(axis=(0, 2), dtype=np.float64) / scale
    std = sample.std(axis=(0, 2), dtype=np.float64) / scale
    return mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32)


def freeze(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make an array read-only and return it."""
    array.setflags(write=False)
    return array
