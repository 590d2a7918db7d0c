"""What crosses between server and client, and how: the `link:` block of a method, and the compression of a client's upload.

The update that a client sends is an exact number of codes as it is. To send fewer bits than that, its weights, or their change,
are quantised once more, symmetric by output channel. Error feedback adds to each update what was lost of the one before (Seide et
al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; Karimireddy et al., arXiv 1901.09847): it mends biased roundings, and
costs the device a float copy that it keeps between the rounds. On a board that copy lives as long as its SuperNode's run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from fedapt.options import Options
from fedapt.quant import HIGHEST_BITS, LOWEST_BITS, FloatWeight, GridOptions, quantise_tensor
from fedapt.quant.parts import Part, Slice
from fedapt.quant.weight import Weight

UPLOAD_GRID = GridOptions(granularity="channel", range="symmetric", headroom=1.0)


class Link(Options):
    """How models cross the network. Biases and all that is no layer's weight cross as floats."""

    down: Literal["stochastic", "nearest"] = Field(
        default="stochastic", description="how the server rounds when it quantises the model for a client"
    )
    send: Literal["delta", "model"] = Field(
        default="delta", description="what is averaged: the end minus the start as the client got it, or minus the global model"
    )
    bits: int | None = Field(
        default=None,
        ge=LOWEST_BITS,
        le=HIGHEST_BITS,
        description="width to which clients compress what they send; null: not at all",
    )
    rounding: Literal["stochastic", "nearest"] = Field(default="stochastic", description="how that compression rounds")
    error_feedback: bool = Field(
        default=False, description="clients add to an update what compression lost of the one before, and keep it: 4 B a weight"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Link:
        if self.error_feedback and (self.bits is None or self.send == "model"):
            raise ValueError("`error_feedback` needs `bits` to compress to and `send: delta`; give both, or leave it out")
        if self.bits is None and self.rounding != "stochastic":
            raise ValueError("`rounding` is of an upload that is compressed, and without `bits` it is not; give `bits`")
        return self

    @property
    def sends_compressed_delta(self) -> bool:
        """Whether a client's reply holds the change of its weights, and it has to keep its start for that."""
        return self.bits is not None and self.send == "delta"

    @property
    def floats_a_weight(self) -> int:
        """How many floats a client keeps for each weight: its start, and what error feedback remembers."""
        return int(self.sends_compressed_delta) + int(self.error_feedback)


class Compressor:
    """A client's upload in one round.

    start: the weights as they came, by layer, of which the values are kept if the change is sent; part: what of them is sent,
    None for all; lost: what compression has lost before, by layer and shaped like whole weights, as the part may be another in
    each round; it is written anew if the link has error feedback, and empty at first.
    """

    def __init__(
        self,
        link: Link,
        start: Mapping[str, Weight],
        lost: dict[str, Tensor],
        generator: torch.Generator,
        part: Part | None = None,
    ) -> None:
        self._link, self._lost, self._generator = link, lost, generator
        self._slices: Mapping[str, Slice | None] = part.weights if part else {}
        kept = (part.of_weights(start) if part else start) if link.sends_compressed_delta else {}
        self._start = {layer: weight.dequantise().clone() for layer, weight in kept.items()}
        self._shapes = {layer: start[layer].shape for layer in kept}

    def compress(self, end: Mapping[str, Weight]) -> tuple[dict[str, Weight], float | None]:
        """Return what is sent, and the squared error of it, relative to what it stands for; None if it is exact.

        end: the part of the layers that is sent.
        """
        if self._link.bits is None:
            return dict(end), None
        sent: dict[str, Weight] = {}
        error, length = 0.0, 0.0
        for layer, weight in end.items():
            meant = self._meant(layer, weight)
            sent[layer] = quantise_tensor(meant, self._link.bits, UPLOAD_GRID, self._link.rounding, self._generator)
            length += float(meant.square().sum(dtype=torch.float64))
            missing = meant.sub_(sent[layer].dequantise())
            error += float(missing.square().sum(dtype=torch.float64))
            if self._link.error_feedback:
                self._keep(layer, missing)
        return sent, error / length if length else 0.0

    def _meant(self, layer: str, end: Weight) -> Tensor:
        """Return what would be sent without compression, in memory that may be written to."""
        if not self._link.sends_compressed_delta:
            return end.dequantise().clone()
        meant = self._start.pop(layer).neg_().add_(end.dequantise())
        if layer not in self._lost:
            return meant
        some = self._slices.get(layer)
        return meant.add_(some.of(self._lost[layer]) if some else self._lost[layer])

    def _keep(self, layer: str, missing: Tensor) -> None:
        """Keep what was lost of a layer; what is not sent this time keeps what it lost before."""
        some = self._slices.get(layer)
        if some is None:
            self._lost[layer] = missing
            return
        lost = self._lost.setdefault(layer, torch.zeros(self._shapes[layer]))
        lost.index_copy_(some.dim, torch.tensor(some.places), missing)


def sent_from(start: Mapping[str, Weight], link: Link) -> dict[str, Weight]:
    """Return what the weights of a reply are counted from: the start, or zeros where they are its change already."""
    if not link.sends_compressed_delta:
        return dict(start)
    return {layer: FloatWeight(torch.zeros(weight.shape)) for layer, weight in start.items()}
