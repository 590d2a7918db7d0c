"""What the server tells a client with the model, and what the client reports with its update.

Both cross the network as JSON in the message's header and are checked when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, ValidationError

from fedapt.clients.adaptation import Adaptation, Width
from fedapt.clients.backward import SentBackward
from fedapt.clients.link import Link
from fedapt.clients.samples.filter import Filter, Filtered
from fedapt.errors import DamagedData
from fedapt.options import Options
from fedapt.quant import GridOptions, Rounding
from fedapt.quant.treatment import Scheme

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
# Python's numbers have no end, and one of more than 4300 digits cannot even be written into a sentence.
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Instructions(Options):
    """One client's work in one round; `seed`, `round` and `client` key its random streams.

    copies: bits of the copy that is computed with, for layers that keep a float master; frozen: modules that are not trained;
    backward: the method by which the others are, None for the client's own;
    adaptation: how the client moves its own layers' bits within the round, None if it does not; link: how the model crosses;
    most_steps: after how many steps it stops, None if it trains on all batches of all epochs.
    """

    seed: int
    round: int = Field(ge=0)
    client: int = Field(ge=0)
    epochs: int = Field(ge=0)
    batch: int = Field(ge=1)
    lr: FiniteFloat = Field(gt=0)
    rounding: Rounding
    grid: GridOptions
    proximal_mu: FiniteFloat = Field(default=0.0, ge=0)
    copies: dict[str, Width] = Field(default_factory=dict)
    frozen: list[str] = Field(default_factory=list)
    backward: SentBackward | None = None
    adaptation: Adaptation | None = None
    link: Link = Field(default_factory=Link)
    most_steps: int | None = Field(default=None, ge=1)

    @property
    def scheme(self) -> Scheme:
        """Which layers train, and how."""
        return Scheme(tuple(self.frozen), self.backward)

    def batches(self, samples: int) -> dict[int, int]:
        """Return the sizes of the batches that a client with so many samples trains on, by size and how many of them."""
        whole, rest = divmod(samples, self.batch)
        an_epoch = whole + bool(rest)
        steps = an_epoch * self.epochs
        epochs, more = divmod(steps if self.most_steps is None else min(steps, self.most_steps), max(an_epoch, 1))
        counts = {self.batch: epochs * whole + min(more, whole), rest: epochs}
        return {size: count for size, count in counts.items() if size and count}

    def seen(self, samples: int) -> int:
        """Return how many different samples of so many a client trains on: a client that stops early has not seen all of them."""
        return samples if self.most_steps is None else min(samples, self.most_steps * self.batch)

    def most_segments(self, samples: int) -> int:
        """Return at how many sets of widths a client with so many samples can train; 0 if it adapts none and reports none."""
        return -(-sum(self.batches(samples).values()) // self.adaptation.every) if self.adaptation else 0

    def longest_report(self, samples: int, chooses: Filter) -> tuple[tuple[int, int], ...] | None:
        """Return what `report_room` wants to know of the sample filter of a client with so many samples."""
        return chooses.longest(min(self.batch, samples), sum(self.batches(samples).values()))


def read_instructions(header: Mapping[str, Any]) -> Instructions:
    """Take the instructions out of a message's header; raises DamagedData saying what is wrong with them."""
    try:
        return Instructions.model_validate(header.get("instructions"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, ("instructions", *first["loc"])))
        raise DamagedData(f"the message's header is not valid: {place}: {first['msg']}") from None


class ReplyTo(Options):
    """What a reply answers; digest: of the message, which tells one run from another."""

    round: Whole
    client: Whole
    digest: str


class LayerReport(Options):
    """How one layer learned: means over the observed steps."""

    gavg: FiniteFloat = Field(ge=0)
    underflow_share: Share
    clip_share: Share


def _is_none(value: object) -> bool:
    return value is None


class Segment(Options):
    """What was trained at one set of widths. bits: one for each layer, in the order of their names; the rest as in the report."""

    bits: list[Width]
    batches: dict[Whole, Whole]
    filtered: Filtered | None = Field(default=None, exclude_if=_is_none)


def steps_of(part: Segment | TrainReport) -> int:
    """Return after how many batches the weights moved."""
    return part.filtered.steps if part.filtered else sum(part.batches.values())


class TrainReport(Options):
    """What a client says about its training.

    batches: the sizes of the batches that went forward, by size and how many of them; filtered: what became of them, of a client
    with a sample filter, left out by any other; segments: the same by the layers' widths, of a
    client that adapted them; layers: since it did so last, or in the last epoch; relative_error: squared error of what it sent,
    relative to what it stands for, of a client that compressed its upload; samples: different ones that it trained on.
    """

    kind: Literal["trained"] = "trained"
    samples: Count
    batches: dict[Whole, Whole]
    train_loss: FiniteFloat | None
    layers: dict[str, LayerReport]
    segments: list[Segment] = Field(default_factory=list)
    filtered: Filtered | None = Field(default=None, exclude_if=_is_none)
    relative_error: FiniteFloat | None = Field(default=None, ge=0)

    @property
    def steps(self) -> int:
        """After how many batches the weights moved."""
        return steps_of(self)


class EvaluateReport(Options):
    """How a model did on the samples that a client keeps from training."""

    kind: Literal["evaluated"] = "evaluated"
    samples: Count
    correct: Count
    loss: FiniteFloat
