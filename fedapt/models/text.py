"""A bag of words: the mean of their embeddings, classified.

Joulin et al., "Bag of Tricks for Efficient Text Classification" (fastText), EACL 2017, https://arxiv.org/abs/1607.01759, with
words hashed into a fixed vocabulary, so that no client has to see the words of another.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from fedapt.data import DataShape
from fedapt.models.model import MOST_UNITS, ModelOptions

SMALL = 0.03


class Text(ModelOptions):
    """An embedding, its mean over the words, and a dense layer: 267,277 parameters on 4,096 words and 77 classes."""

    kind: Literal["text"] = "text"
    width: int = Field(default=64, ge=1, le=MOST_UNITS, description="numbers that stand for a word")

    def build(self, data: DataShape) -> nn.Module:
        """Take tokens, of which 0 is padding."""
        self.need_tokens(data)
        return BagOfTokens(data.vocabulary, self.width, data.classes)


class BagOfTokens(nn.Module):
    """Embeds tokens, takes the mean of those that are no padding, and classifies it.

    The embeddings begin small and the norm brings their mean to unit size, so that plain SGD turns them quickly.
    """

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding, self.norm, self.dense = nn.Embedding(vocabulary, width), nn.LayerNorm(width), nn.Linear(width, classes)
        nn.init.normal_(self.embedding.weight, std=SMALL)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (n, length) to logits (n, classes); a text without tokens is all zeros before the norm."""
        words = (tokens != 0).unsqueeze(2)
        mean = (self.embedding(tokens) * words).sum(1) / words.sum(1).clamp(min=1)
        logits: Tensor = self.dense(self.norm(mean))
        return logits
