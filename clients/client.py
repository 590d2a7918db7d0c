"""The device side: one client that trains the one copy of the model that it was sent.

It never holds a float model or, but for `qat`, a master copy; the message is decoded, trained in place, and sent back. The packed
message itself stays until the reply is made, in Flower's hands, and is not charged. A simulation that needs no messages hands
the model over as it is.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedapt.clients.continual.memory import Continual
from fedapt.clients.instructions import (
    EvaluateReport,
    Instructions,
    LayerReport,
    ReplyTo,
    Segment,
    TrainReport,
    read_instructions,
)
from fedapt.clients.link import Compressor
from fedapt.clients.rooms import report_room
from fedapt.clients.samples.filter import Filter, Filtered, Session
from fedapt.data.examples import Examples
from fedapt.errors import RunFailed
from fedapt.quant import CodedWeight, FloatWeight, LayerStatistics, SingleCopySGD
from fedapt.quant.skeleton import Skeleton
from fedapt.quant.weight import refit
from fedapt.quant.wire import QuantisedModel, digest_of, from_bytes, to_bytes
from fedapt.seeding import numpy_stream, torch_stream, torchs_own_stream

EVALUATION_BATCH = 256
CLIPPED_TOO_MUCH = 0.01
OBSERVED_FROM = 0.75


@dataclass(frozen=True)
class Client:
    """A device with its samples: `rows` of `examples` to train on, `held_out` to evaluate on.

    Training falls into stretches: epochs, or what lies between two adaptations of a client that moves its own layers' bits.
    Statistics are of the last quarter of a stretch: bits are for the gradients that are left when the easy part is learned. A
    range in which more than one code in a hundred clips is laid anew between two stretches.

    keeps: float tensors by layer that outlive a round, of a method that needs them; `train` changes it.
    gathered: so many numbers of the inputs are gathered at a time; a board has room for one batch, which is the least.
    channels_last: images are laid out so that convolutions are faster on most processors; the last bits differ, and dropout drops
    other places.
    """

    skeleton: Skeleton
    examples: Examples
    rows: np.ndarray
    held_out: np.ndarray
    samples: Filter
    continual: Continual
    keeps: dict[str, Tensor] = field(default_factory=dict)
    gathered: int = 0
    channels_last: bool = False

    def train(self, message: bytes) -> bytes:
        """Train the model in the message as its instructions say; return the trained codes with a report."""
        *model, header = from_bytes(message, reader="client")
        told = read_instructions(header)
        # Handed over for good: nothing may keep the codes of a layer that is given a new grid, and the floats that are copied.
        end, report = self.learn(model.pop(), told)
        layers = self.skeleton.quantised.layers
        room = report_room(layers, told.most_segments(len(self.rows)), told.longest_report(len(self.rows), self.samples))
        return _reply(end, report, told, message, room)

    def learn(self, model: QuantisedModel, told: Instructions) -> tuple[QuantisedModel, TrainReport]:
        """Train a model, which is used up, and return the part of it that is sent, what trains, with a report."""
        self.skeleton.load(model, copies=told.copies, grid=told.grid)
        self.skeleton.treat(told.scheme)
        self.skeleton.train()
        for layer in self.skeleton.quantised.layers.values():
            layer.narrow = self.samples.narrows
        key = (told.seed, told.round, told.client)
        part = self.skeleton.part
        compressor = Compressor(told.link, model.weights, self.keeps, torch_stream(key[0], "link", *key[1:]), part)
        correction = model.correction
        del model
        with (
            # Dropout and its like draw from torch's global state, whatever a client before has left there.
            torchs_own_stream(key[0], "layers", *key[1:]),
            SingleCopySGD(
                self.skeleton.model,
                self.skeleton.quantised,
                told.lr,
                told.rounding,
                torch_stream(key[0], "rounding", *key[1:]),
                proximal=told.proximal_mu,
                correction=correction,
                at_once=self.skeleton.at_once,
            ) as sgd,
        ):
            report = self._learn(sgd, told)
        end = part.of(self.skeleton.unload()) if part else self.skeleton.unload()
        _check_finite(end)
        sent, error = compressor.compress(end.weights)
        return replace(end, weights=sent), report.model_copy(update={"relative_error": error})

    def evaluate(self, message: bytes) -> bytes:
        """Evaluate the model in the message, at the bits it came in, on the held-out samples; return a report and no model."""
        model, header = from_bytes(message, reader="client")
        told = read_instructions(header)
        return _reply(QuantisedModel({}, {}), self.examine(model, told), told, message, report_room(()))

    def examine(self, model: QuantisedModel, told: Instructions) -> EvaluateReport:
        """Evaluate a model on the held-out samples."""
        self.skeleton.load(model, copies=told.copies, grid=told.grid)
        self.skeleton.train(False)
        correct, loss = 0, 0.0
        # Without a backward pass, batches as small as those that training fits the device's memory with fit it too.
        size = min(told.batch, EVALUATION_BATCH)
        with torch.no_grad():
            for first in range(0, len(self.held_out), size):
                inputs, labels = self._batch(self.held_out[first : first + size])
                logits = self.skeleton.model(inputs)
                correct += int((logits.argmax(1) == labels).sum())
                loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        if not math.isfinite(loss):
            raise RunFailed(f"the loss on the held-out samples is {loss}: the model diverged; lower clients.local.lr")
        return EvaluateReport(samples=len(self.held_out), correct=correct, loss=loss / max(len(self.held_out), 1))

    def _learn(self, sgd: SingleCopySGD, told: Instructions) -> TrainReport:
        losses: list[float] = []
        session = None
        if not self.samples.takes_all:
            session = self.samples.open(self.keeps, numpy_stream(told.seed, "samples", told.round, told.client))
        tallies: dict[tuple[int, ...], _Tally] = defaultdict(_Tally)
        seen: dict[str, LayerStatistics] = {}
        for stretch in self._stretches(told):
            self._adapt(seen, told, sgd.generator)
            here = tallies[self._widths()]
            observed_from = int((len(stretch) - 1) * OBSERVED_FROM)
            for number, batch in enumerate(self._gathered(stretch)):
                if session is not None:
                    losses += self._filtered_step(sgd, batch, number >= observed_from, session, here)
                    continue
                losses.append(self._step(sgd, batch, observe=number >= observed_from))
                here.forward[len(stretch[number])] += 1
            seen = sgd.take_statistics()
        all_of_it = sum(tallies.values(), _Tally())
        return TrainReport(
            samples=told.seen(len(self.rows)),
            batches=dict(all_of_it.forward),
            train_loss=sum(losses) / len(losses) if losses else None,
            layers={name: _layer_report(name, layer) for name, layer in seen.items()},
            segments=[tally.segment(bits, session) for bits, tally in tallies.items()] if told.adaptation else [],
            filtered=all_of_it.filtered if session else None,
        )

    def _stretches(self, told: Instructions) -> Iterator[list[np.ndarray]]:
        """Yield the batches between two chances to adapt."""
        batches = iter(self.batches(told))
        every = told.adaptation.every if told.adaptation else -(-len(self.rows) // told.batch)
        while stretch := list(itertools.islice(batches, every)):
            yield stretch

    def batches(self, told: Instructions) -> list[np.ndarray]:
        """Return the rows of each step, in an order drawn for each epoch."""
        steps: list[np.ndarray] = []
        for epoch in range(told.epochs):
            order = numpy_stream(told.seed, "batches", told.round, told.client, epoch).permutation(self.rows)
            steps += (order[first : first + told.batch] for first in range(0, len(order), told.batch))
        return steps[: told.most_steps]

    def _gathered(self, stretch: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the samples of these batches. Small ones are gathered several at a time, which takes a third of the time."""
        numbers = math.prod(self.examples.inputs.shape[1:]) * max(map(len, stretch))
        together = max(self.gathered // max(numbers, 1), 1)
        for first in range(0, len(stretch), together):
            part = stretch[first : first + together]
            inputs, labels = self._batch(np.concatenate(part))
            sizes = [len(rows) for rows in part]
            yield from zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True)

    def _batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        inputs, labels = self.examples.batch(rows)
        return (channels_last(inputs) if self.channels_last else inputs), labels

    def _step(self, sgd: SingleCopySGD, batch: tuple[Tensor, Tensor], observe: bool) -> float:
        inputs, labels = self.continual.extend(*batch)
        with sgd.step(observe):
            loss = F.cross_entropy(self.skeleton.model(inputs), labels)
            value = _finite(loss, sgd)
            loss.backward()  # type: ignore[no-untyped-call]
        return value

    def _filtered_step(
        self, sgd: SingleCopySGD, batch: tuple[Tensor, Tensor], observe: bool, session: Session, tally: _Tally
    ) -> list[float]:
        """Train on the samples that are worth it; return the mean loss of those that went forward, nothing if none did.

        Without a sample that is worth it nothing moves.
        """
        inputs, labels = self.continual.extend(*batch)
        tally.seen += len(labels)
        if (passing := session.screen(inputs)) is not None:
            inputs, labels = inputs[passing], labels[passing]
        if not len(labels):
            return []
        tally.forward[len(labels)] += 1
        with sgd.step(observe):
            # A sample's loss is the mean over its places, if a model answers for more than one.
            losses = F.cross_entropy(self.skeleton.model(inputs), labels, reduction="none").view(len(labels), -1).mean(1)
            value = _finite(losses.detach().mean(), sgd)
            chosen = session.choose(losses.detach())
            worth = losses if chosen is None else losses[chosen]
            if len(worth):
                worth.mean().backward()  # type: ignore[no-untyped-call]
                tally.trained, tally.steps = tally.trained + len(worth), tally.steps + 1
        return [value]

    def _adapt(self, seen: Mapping[str, LayerStatistics], told: Instructions, generator: torch.Generator) -> None:
        """Lay new grids, between two stretches, where other bits are asked for or the weights have outgrown theirs."""
        for name, statistics in seen.items():
            layer = self.skeleton.quantised.layers[name]
            if not isinstance(layer.weight, CodedWeight):
                continue
            bits = layer.weight.bits
            wanted = told.adaptation.bits(name, statistics.gavg, bits, told.lr) if told.adaptation else bits
            if wanted != bits or statistics.clip_share > CLIPPED_TOO_MUCH:
                layer.weight = refit(layer.weight, told.grid, generator, wanted)

    def _widths(self) -> tuple[int, ...]:
        return tuple(layer.weight.bits for _, layer in sorted(self.skeleton.quantised.layers.items()))


@dataclass
class _Tally:
    """What was done so far: the batches that went forward by size, and what `Filtered` counts."""

    forward: Counter[int] = field(default_factory=Counter)
    seen: int = 0
    trained: int = 0
    steps: int = 0

    def __add__(self, other: _Tally) -> _Tally:
        sums = self.seen + other.seen, self.trained + other.trained, self.steps + other.steps
        return _Tally(self.forward + other.forward, *sums)

    @property
    def filtered(self) -> Filtered:
        return Filtered(seen=self.seen, trained=self.trained, steps=self.steps)

    def segment(self, bits: tuple[int, ...], session: Session | None) -> Segment:
        return Segment(bits=list(bits), batches=dict(self.forward), filtered=self.filtered if session else None)


def _finite(loss: Tensor, sgd: SingleCopySGD) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise RunFailed(f"the loss became {value} in step {sgd.steps + 1}: lower clients.local.lr")
    return value


def channels_last(images: Tensor) -> Tensor:
    """Return images (n, channels, height, width) in the same shape, with the channels of a pixel beside each other in memory.

    Anything else is returned as it is. Of a single channel torch would not see the difference, unless the strides say it.
    """
    if images.dim() != 4:
        return images
    _, channels, height, width = images.shape
    strides = (channels * height * width, 1, width * channels, channels)
    return torch.empty_strided(images.shape, strides, dtype=images.dtype).copy_(images)


def _layer_report(name: str, layer: LayerStatistics) -> LayerReport:
    if not math.isfinite(layer.gavg):
        raise RunFailed(f"layer {name}: Gavg became {layer.gavg}, the gradients are too large: lower clients.local.lr")
    return LayerReport(**vars(layer))


def _check_finite(model: QuantisedModel) -> None:
    """Raise RunFailed for floats that are not finite; codes always are."""
    weights = {f"{name}.weight": weight.values for name, weight in model.weights.items() if isinstance(weight, FloatWeight)}
    for name, values in (weights | model.floats).items():
        # The sum alone is cheap, and can overflow without one.
        if not math.isfinite(values.sum().item()) and (wrong := int((~values.isfinite()).sum())):
            raise RunFailed(f"{name} became non-finite ({wrong} values): lower clients.local.lr")


def _reply(
    model: QuantisedModel,
    report: TrainReport | EvaluateReport,
    told: Instructions,
    message: bytes,
    room: int,
) -> bytes:
    reply_to = ReplyTo(round=told.round, client=told.client, digest=digest_of(message))
    return to_bytes(model, {"report": report.model_dump(mode="json"), "reply_to": reply_to.model_dump()}, room)
