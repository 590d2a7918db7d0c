"""Numbers for people: three digits and a unit that fits, in ASCII; and text of others made harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedapt.pretrained import Origin

MISSING = "-"
# A unit, its size, and up to where it is used: 999.6 would be written as 1000, so the next unit is due.
Units = list[tuple[str, float, float]]
DECIMAL = {"p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
ENERGY: Units = [(f"{prefix}J", size, 999.5) for prefix, size in DECIMAL.items()]
BYTES: Units = [(f"{prefix}B", size, 999.5) for prefix, size in DECIMAL.items() if size >= 1]
MEMORY: Units = [("B", 1, 999.5), ("KiB", 2**10, 999.5), ("MiB", 2**20, 999.5), ("GiB", 2**30, 999.5)]
# Of things that have no unit.
COUNT: Units = [(prefix, size, 999.5) for prefix, size in DECIMAL.items() if size >= 1]
TIME: Units = [
    *((f"{prefix}s", size, 999.5) for prefix, size in DECIMAL.items() if size < 1),
    ("s", 1, 99.95),
    ("min", 60, 99.95),
    ("h", 3600, 999.5),
]


def fitting_unit(value: float, units: Units) -> tuple[str, float]:
    """Return the name and size of the unit in which a value has one to three digits before its point."""
    fitting = ((name, size) for name, size, below in units if abs(value / size) < below)
    return next(fitting, units[-1][:2])


def written(value: float | None, units: Units) -> str:
    """Write a value with three digits and its unit; without a value, a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    base = next(name for name, size, _ in units if size == 1)
    if value == 0:
        return f"0 {base}"
    name, size = fitting_unit(value, units)
    count = value / size
    digits = 0 if name in ("B", "") else 2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0
    return f"{count:.{digits}f} {name}"


def joules(value: float | None) -> str:
    """Write an energy such as `12.3 J` or `4.56 mJ`."""
    return written(value, ENERGY)


def byte_count(value: float | None) -> str:
    """Write a number of bytes on a link or a disk, in powers of 1000, such as `1.42 MB`."""
    return written(value, BYTES)


def memory(value: float | None) -> str:
    """Write a size in memory, in powers of 1024 as budgets are, such as `1.25 MiB`."""
    return written(value, MEMORY)


def macs(count: float | None) -> str:
    """Write a number of MACs such as `62.5 M`."""
    return written(count, COUNT).rstrip()


def seconds(value: float | None) -> str:
    """Write a duration such as `350 ms`, `12.3 s`, `2.08 min` or `3.33 h`."""
    return written(value, TIME)


def percent(share: float | None) -> str:
    """Write a share of one as `86.2 %`."""
    return MISSING if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def decimal(value: float | None, digits: int = 1) -> str:
    """Write a plain number, or a dash if there is none."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def counted(count: int, noun: str) -> str:
    """Write `1 client` or `2 clients`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def ranges(numbers: tuple[int, ...] | list[int], limit: int = 6) -> str:
    """Write sorted client numbers shortly: `3, 5-9, 12`; after `limit` pieces, how many more there are."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    shown = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in pieces[:limit])
    more = sum(high - low + 1 for low, high in pieces[limit:])
    return f"{shown} and {more} more" if more else shown


def distinct(names: Sequence[str], longest: int) -> list[str]:
    """Cut long names; where the rests would be the same, the words that they begin with in common give way first."""
    cut = [name if len(name) <= longest else f"{name[: max(longest - 3, 1)]}..." for name in names]
    for same in {name for name in cut if cut.count(name) > 1}:
        those = [number for number, name in enumerate(cut) if name == same]
        first, last = min(names[number] for number in those), max(names[number] for number in those)
        common = _shared(first, last).rfind(" ") + 1
        if common and len({names[number] for number in those}) > 1:
            rests = distinct([names[number][common:] for number in those], longest - 3)
            for number, rest in zip(those, rests, strict=True):
                cut[number] = rest if rest.startswith("...") else f"...{rest}"
    return cut


def _shared(one: str, other: str) -> str:
    return "".join(letter for letter, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def harmless(text: str) -> str:
    """Return text from a scenario or a client on one line, without characters that steer a terminal or turn its direction."""
    return "".join(character if character.isprintable() else " " for character in text)


def pretraining_words(origin: Origin) -> str:
    """Say what a model has learned before the first round, what that cost the clients, and what of it was not used."""
    if origin.epochs:
        data = f"{counted(origin.samples, 'sample')} of {origin.classes} classes of {origin.source}"
        reached = f"loss {decimal(origin.loss, 3)}, test accuracy {percent(origin.accuracy)}"
        begun = f"pretrained on {data}: {counted(origin.epochs, 'epoch')}, {reached}; on the server, no client is charged for it"
    else:
        begun = f"weights of {origin.source}; no client is charged for them"
    own = ", ".join(origin.own)
    return f"{begun}; not taken over, because they do not fit: {own}" if own else begun


LAYOUT_WORDS = "images with the channels of a pixel beside each other (engine.channels_last): other last digits than without"
HALF_WORDS = (
    "layers with codes of at most 8 bits computed in bf16 where that pays (engine.compute): other numbers than in float32"
)


def filtered_words(backward: int, spared: int) -> str:
    """Say how many of the samples that came up a filter has let go backward."""
    came = backward + spared
    return f"sample filters let {backward:,} of {came:,} samples that came up go backward, {percent(backward / came)}"


def batched_words(batched: int, attempts: int) -> str:
    """Say how much of the training was done for many clients at once, and what that changes."""
    return f"{batched:,} of {counted(attempts, 'attempt')} trained as one batch with other clients: other last digits than alone"
