"""How long the messages of a model are: known exactly before there is one, for plans and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from fedapt.clients.link import UPLOAD_GRID
from fedapt.clients.rooms import instructions_room, report_room
from fedapt.quant import GridOptions
from fedapt.quant.wire import message_length

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, eq=False)
class Messages:
    """What crosses of a model. weights: shapes by layer; floats: shapes of everything else, by its name in the model."""

    weights: Shapes
    floats: Shapes

    @classmethod
    def of(cls, shapes: Shapes, layers: Sequence[str]) -> Messages:
        """Return the messages of a model with these tensors by parameter name and these quantised layers."""
        weights = {layer: tuple(shapes[f"{layer}.weight"]) for layer in layers}
        floats = {name: tuple(shape) for name, shape in shapes.items() if name.removesuffix(".weight") not in weights}
        return cls(weights, floats)

    def lengths(
        self, bits: Mapping[str, int], grid: GridOptions, segments: int, upload_bits: int | None = None, corrected: bool = False
    ) -> tuple[int, int]:
        """Return the bytes down and up for a client that keeps the widths in which the model is sent.

        segments: at how many sets of widths it may train, 0 if it does not adapt its bits; upload_bits: the width to which it
        compresses its upload, if it does; corrected: whether a correction goes down with the model.
        """
        return self._lengths(tuple(bits.items()), grid, segments, upload_bits, corrected)

    def evaluation_up(self) -> int:
        """Return the bytes of a client's evaluation: a report and no model."""
        return message_length({}, {}, {}, GridOptions(), report_room(()))

    @cache  # noqa: B019 (it lives as long as the run whose model it describes)
    def _lengths(
        self, bits: tuple[tuple[str, int], ...], grid: GridOptions, segments: int, upload_bits: int | None, corrected: bool
    ) -> tuple[int, int]:
        widths = dict(bits)
        modules = {*self.weights, *(name.rpartition(".")[0] for name in self.floats)}
        rooms = instructions_room(modules, widths if segments else ()), report_room(widths, segments)
        down = message_length(widths, self.weights, self.floats, grid, rooms[0], corrected)
        if upload_bits is None:
            return down, message_length(widths, self.weights, self.floats, grid, rooms[1])
        return down, message_length(dict.fromkeys(widths, upload_bits), self.weights, self.floats, UPLOAD_GRID, rooms[1])
