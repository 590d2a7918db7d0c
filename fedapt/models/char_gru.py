"""A recurrent network that predicts the next character, as the Shakespeare task of LEAF.

Caldas et al., "LEAF: A Benchmark for Federated Settings", https://arxiv.org/abs/1812.01097, with one GRU (Cho et al.,
https://arxiv.org/abs/1406.1078) in place of two LSTMs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fedapt.data import DataShape
from fedapt.models.model import MOST_UNITS, ModelOptions


class CharGru(ModelOptions):
    """An embedding, a GRU, and a dense layer on its last state: 77,857 parameters on the alphabet of printable characters."""

    kind: Literal["char-gru"] = "char-gru"
    embedding: int = Field(default=32, ge=1, le=MOST_UNITS, description="numbers that stand for a character")
    hidden: int = Field(default=128, ge=1, le=MOST_UNITS, description="units of the GRU")

    def build(self, data: DataShape) -> nn.Module:
        """Take tokens, of which 0 is padding."""
        self.need_tokens(data)
        return Recurrent(data.vocabulary, self.embedding, self.hidden, data.classes)


class Recurrent(nn.Module):
    """A GRU of plain layers, which quantise as any others: `nn.GRU` hides its weights from the time steps."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.embedding, self.input = nn.Embedding(vocabulary, embedding), nn.Linear(embedding, 3 * hidden)
        self.recurrent, self.dense = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, classes)
        self.sigmoid, self.tanh = nn.Sigmoid(), nn.Tanh()

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length), the oldest first, to the logits (n, classes) of what follows the last one."""
        steps = self.input(self.embedding(tokens)).unbind(1)
        state = steps[0].new_zeros(len(tokens), self.hidden)
        for step in steps:
            state = self._next(step, state)
        logits: Tensor = self.dense(state)
        return logits

    def _next(self, step: Tensor, state: Tensor) -> Tensor:
        """Return the state after one step: Cho et al., with the reset gate behind the matrix product, as torch has it."""
        reset_x, update_x, new_x = step.chunk(3, 1)
        reset_h, update_h, new_h = self.recurrent(state).chunk(3, 1)
        reset, update = self.sigmoid(reset_x + reset_h), self.sigmoid(update_x + update_h)
        new = self.tanh(new_x + reset * new_h)
        following: Tensor = new + update * (state - new)
        return following
