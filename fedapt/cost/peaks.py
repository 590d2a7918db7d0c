"""What a training step holds at its busiest moments: measured once on a real step, then known for any batch and any widths.

A step is run on batches of two sizes while every allocation and release is noted: of the storages of tensors, and of what the
kernels use inside. Both runs do the same things in the same order, so what is alive after each of them is a straight line in the
size of the batch. Two things are kept apart. What a layer's weight allocates while it is dequantised or updated: a float weight
needs none of it. And what errors need while they are quantised block by block: it grows with the batch until a block is full.

Torch chooses other convolution kernels for a single sample, and for 16 and more, so there are three stages, each with lines of
its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig
from torch.utils._python_dispatch import TorchDispatchMode

from fedapt.cost.shapes import tensors_in
from fedapt.errors import ScenarioError
from fedapt.quant.blocks import BLOCK
from fedapt.quant.layers import QuantisedLayer

Array = NDArray[np.float64]


# The batches that each stage is measured on, from the first on which it begins.
STAGES = ((1,), (2, 3), (16, 17))


@dataclass(frozen=True, eq=False)
class Moments:
    """The moments of a step that can be its peak, in bytes beyond what was there before it: weights, batch, optimiser.

    per_sample, fixed: (moments,), for a batch of n `per_sample * n + fixed` bytes are alive.
    block, full:       (moments,), a block of errors adds `min(block * n, full)`.
    scratch:           (layers, moments), what the weight of each layer adds if it holds codes.
    """

    per_sample: Array
    fixed: Array
    block: Array
    full: Array
    scratch: Array

    def highest(self, batch: int, coded: NDArray[np.bool_]) -> Array:
        """Return the bytes at the peak of a step on a batch; coded: (..., layers), whether a layer holds codes."""
        block = np.minimum(np.ceil(self.block * batch), self.full)
        alive: Array = self.per_sample * batch + self.fixed + block + coded.astype(np.float64) @ self.scratch
        return np.asarray(alive.max(axis=-1, initial=0.0))


@dataclass(frozen=True, eq=False)
class Peaks:
    """The moments of a step by the smallest batch that they hold for; layers: those whose weights can hold codes."""

    layers: tuple[str, ...]
    stages: Mapping[int, Moments]

    def working_bytes(self, batch: int, coded: NDArray[np.bool_]) -> Array:
        """Return the peak of a step on a batch; coded: (..., layers), whether a layer holds codes; returns (...,)."""
        # From the nearest below to the smallest above: of a batch that the model refuses there are no moments.
        for first in sorted(self.stages if batch else (), key=lambda first: (first > batch, abs(first - batch))):
            if (moments := self.stages.get(first)) is not None:
                return moments.highest(batch, coded)
        return np.zeros(coded.shape[:-1])


NO_PEAKS = Peaks((), {})


@dataclass
class _Event:
    """One storage that came or went. layer: whose weight allocated it, or None; elements: of the errors that it is a block of."""

    layer: str | None
    nbytes: int
    elements: int = 0


class _Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every storage that an operation creates, and when it is released."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from loading its compiler to tell it to look away: that takes two seconds and leaves a folder behind."""
        return False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[_Event] = []
        self.layer: str | None = None
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        with _allocator() as allocated:
            result = func(*args, **(kwargs or {}))
        created = tensors_in(result)
        before = len(self.events)
        # A storage that came in with an argument was there before, whether it was noted or not.
        known = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs or {}))} if created else set()
        for tensor in created:
            storage = tensor.untyped_storage()
            if storage._cdata not in known and storage._cdata not in self._alive and storage.nbytes():
                self._note(storage)
        if allocated:
            # A kernel's own scratch is gone when it returns, so its peak is told apart from the storages that it leaves.
            kept = sum(event.nbytes for event in self.events[before:])
            inside = max(max(np.cumsum(allocated)) - kept, 0)
            self.events += [_Event(self.layer, inside), _Event(self.layer, -inside)]
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, born = storage._cdata, _Event(self.layer, storage.nbytes())
        self._alive.add(key)
        self.events.append(born)

        def released() -> None:
            self._alive.discard(key)
            self.events.append(_Event(born.layer, -born.nbytes))

        weakref.finalize(storage, released).atexit = False

    @contextmanager
    def watching(self, layer: QuantisedLayer) -> Iterator[None]:
        """Charge what the layer's weight allocates to the layer, and note the blocks of its errors as one storage."""
        weight: Any = layer.weight

        def charged(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                self.layer = layer.name
                try:
                    return method(*args, **kwargs)
                finally:
                    self.layer = None

            return call

        def hear(error: Tensor) -> Tensor:
            before, self.events = self.events, []
            heard = type(layer).hear(layer, error)
            within, self.events = self.events, before
            highest = max(np.cumsum([event.nbytes for event in within]), default=0)
            kept = sum(event.nbytes for event in within)
            if kept:
                self.events.append(_Event(None, kept))
            self.events.append(_Event(None, highest - kept, error.numel()))
            self.events.append(_Event(None, kept - highest, error.numel()))
            return heard

        weight.dequantise, weight.apply = charged(weight.dequantise), charged(weight.apply)
        object.__setattr__(layer, "hear", hear)
        part = layer.rule.part
        if part:
            # The codes of a part move as a weight of their own.
            object.__setattr__(part, "move", charged(part.move))
        try:
            yield
        finally:
            del weight.dequantise, weight.apply, layer.hear
            if part:
                object.__delattr__(part, "move")


@contextmanager
def _allocator() -> Iterator[list[int]]:
    """Give a list that holds, afterwards, the bytes that torch's allocator gave out and took back, in order."""
    changes: list[int] = []
    _enable_profiler_legacy(ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig()))
    try:
        yield changes
    finally:
        threads = _disable_profiler_legacy()
        events: list[Any] = [event for thread in threads for event in thread]
        changes += [event.cpu_memory_usage() for event in events if event.kind() == "memory_alloc"]


class _Stages(Mapping[int, Moments]):
    """The moments of each stage, measured when they are asked for; of a stage that the model refuses there are none."""

    def __init__(self, layers: Mapping[str, QuantisedLayer], steps: Steps) -> None:
        self._layers, self._steps = layers, steps
        self._measured: dict[int, Moments | None] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(batches[0] for batches in STAGES)

    def __len__(self) -> int:
        return len(STAGES)

    def __getitem__(self, first: int) -> Moments:
        if first not in self._measured:
            self._measured[first] = self._measure(next(batches for batches in STAGES if batches[0] == first))
        moments = self._measured[first]
        if moments is None:
            raise KeyError(first)
        return moments

    def _measure(self, batches: tuple[int, ...]) -> Moments | None:
        try:
            with self._steps(batches) as step:
                runs = [_events(self._layers, step, batch) for batch in batches]
        except ValueError:
            # Batch norm refuses a single sample, and so will the client.
            if batches == (1,):
                return None
            raise
        return _moments(tuple(self._layers), batches, runs)


# Given the sizes of batches, gives a function that trains on one of so many samples, for as long as it is entered.
Steps = Callable[[tuple[int, ...]], AbstractContextManager[Callable[[int], None]]]


def measure_peaks(layers: Mapping[str, QuantisedLayer], steps: Steps) -> Peaks:
    """Return the moments of a training step, each stage measured when it is first asked for.

    layers: the quantised layers of the model that is trained.

    Asked for, a stage raises ScenarioError if the step does other things for one batch than for a batch of one more.
    """
    return Peaks(tuple(layers), _Stages(layers, steps))


def _events(layers: Mapping[str, QuantisedLayer], step: Callable[[int], None], batch: int) -> list[_Event]:
    allocations = _Allocations()
    with ExitStack() as stack:
        for layer in layers.values():
            stack.enter_context(allocations.watching(layer))
        stack.enter_context(allocations)
        step(batch)
        return list(allocations.events)


def _moments(names: tuple[str, ...], batches: tuple[int, ...], runs: list[list[_Event]]) -> Moments:
    """Draw the lines through runs on one batch, or on two that differ by a sample."""
    if len({tuple((event.layer, event.nbytes > 0) for event in events if event.nbytes) for events in runs}) > 1:
        raise ScenarioError(
            f"model: its memory cannot be predicted: a step on {batches[1]} samples does other things than one on {batches[0]}; "
            "let no forward pass depend on the size of the batch"
        )
    first, run = batches[0], runs[0]
    sizes = np.array([[event.nbytes for event in events] for events in runs], np.float64).reshape(len(runs), -1)
    owner = np.array([-1 if event.layer is None else names.index(event.layer) for event in run], np.intp)
    elements = np.array([event.elements for event in run], np.float64)
    alive = np.where((owner == -1) & (elements == 0), sizes, 0.0).cumsum(axis=1)
    per_sample = alive[-1] - alive[0]
    # Of a block that is not full yet every number needs as much.
    each = np.where(elements > 0, sizes[0] / np.minimum(np.maximum(elements, 1), BLOCK), 0.0)
    block, full = (each * elements / first).cumsum().round(6), (each * BLOCK).cumsum().round(6)
    scratch = [np.where(owner == layer, sizes[-1], 0.0).cumsum() for layer in range(len(names))]
    rows = _not_exceeded(np.vstack([per_sample, alive[0] - first * per_sample, block, full, *scratch]).T)
    return Moments(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3], rows[:, 4:].T)


def _not_exceeded(rows: Array) -> Array:
    """Keep the moments that no other exceeds in every respect: one of them is the peak of any batch at any widths."""
    # A moment cannot be exceeded by one with a smaller sum, so each is compared with those that were kept before it.
    rows = np.unique(rows, axis=0)
    kept = np.empty((0, rows.shape[1]))
    for row in rows[np.argsort(-rows.sum(axis=1), kind="stable")]:
        if not (kept >= row).all(axis=1).any():
            kept = np.vstack([kept, row])
    return kept
