"""How long the messages of a model are: known exactly before there is one, for plans and predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from fedapt.clients.backward.rule import Backward
from fedapt.clients.link import UPLOAD_GRID
from fedapt.clients.rooms import instructions_room, report_room
from fedapt.quant import GridOptions
from fedapt.quant.parts import Part
from fedapt.quant.wire import message_length

if TYPE_CHECKING:
    from fedapt.grid.visit import Task

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

    def of_task(self, task: Task, *, corrected: bool, ended: Mapping[str, int] | None = None) -> tuple[int, int]:
        """Return the bytes down and up of a training task.

        corrected: whether a correction goes down with the model; ended: the widths of layers that the client has changed.
        """
        told, bits = task.instructions, {**task.bits, **(ended or {})}
        segments, longest = told.most_segments(task.samples), told.longest_report(task.samples, task.filter)
        part, link = task.part, told.link
        return self._lengths(tuple(bits.items()), told.grid, segments, link.bits, corrected, part, told.backward, longest)

    def lengths(
        self,
        bits: Mapping[str, int],
        grid: GridOptions,
        segments: int,
        upload_bits: int | None = None,
        corrected: bool = False,
        *,
        part: Part | None = None,
        backward: Backward | None = None,
        longest: tuple[tuple[int, int], ...] | None = None,
    ) -> tuple[int, int]:
        """Return the bytes down and up for a client that keeps the widths in which the model is sent.

        segments: at how many sets of widths it may train, 0 if it does not adapt its bits; upload_bits: the width to which it
        compresses its upload, if it does; corrected: whether a correction goes down with the model; part: what comes back of it,
        None for all; backward: the method that the client is sent in place of its own; longest: as in `report_room`.
        """
        return self._lengths(tuple(bits.items()), grid, segments, upload_bits, corrected, part, backward, longest)

    def evaluation_up(self) -> int:
        """Return the bytes of a client's evaluation: a report and no model."""
        return message_length({}, {}, {}, GridOptions(), report_room(()))

    @cache  # noqa: B019 (it lives as long as the run whose model it describes)
    def _lengths(
        self,
        bits: tuple[tuple[str, int], ...],
        grid: GridOptions,
        segments: int,
        upload_bits: int | None,
        corrected: bool,
        part: Part | None,
        backward: Backward | None,
        longest: tuple[tuple[int, int], ...] | None,
    ) -> tuple[int, int]:
        widths = dict(bits)
        modules = {*self.weights, *(name.rpartition(".")[0] for name in self.floats)}
        rooms = instructions_room(modules, widths if segments else (), backward), report_room(widths, segments, longest)
        down = message_length(widths, self.weights, self.floats, grid, rooms[0], corrected)
        sent = self._part(part)
        widths = {layer: upload_bits or widths[layer] for layer in sent.weights}
        return down, message_length(widths, sent.weights, sent.floats, UPLOAD_GRID if upload_bits else grid, rooms[1])

    def _part(self, part: Part | None) -> Messages:
        if part is None:
            return self
        weights = {layer: tuple(shape) for layer, shape in self.weights.items() if layer in part.weights}
        weights = {layer: some.shape(weights[layer]) if (some := part.weights[layer]) else weights[layer] for layer in weights}
        return Messages(weights, {name: shape for name, shape in self.floats.items() if name in part.floats})
