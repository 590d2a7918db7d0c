"""How many bytes of a message its header takes, whatever is in it: the length of a message is known before there is one.

A room holds the worst case, built from the fields of what is sent: a new field counts as a number until it is named here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedapt.clients.adaptation import Adaptation
from fedapt.clients.backward.rule import Backward
from fedapt.clients.instructions import Instructions, LayerReport, ReplyTo, TrainReport
from fedapt.clients.link import Link
from fedapt.clients.samples.filter import Filtered
from fedapt.quant.grid import HIGHEST_BITS
from fedapt.quant.wire import DIGEST_DIGITS, room_of

# 25 digits: a float has 24 characters at most, a 64-bit whole number 20.
LONGEST_NUMBER = 10**24
# Whole batches, and one with the rest.
MOST_BATCH_SIZES = 2


def instructions_room(names: Collection[str], adapted: Collection[str] = (), backward: Backward | None = None) -> int:
    """Return the room for instructions.

    names: of all modules of which there may be a copy, or that may be frozen; adapted: of layers whose bits the client adapts;
    backward: the method that it is sent in place of its own, if any.
    """
    worst = _numbers(Instructions.model_fields) | {
        "rounding": "stochastic",
        "grid": {"granularity": "channel", "range": "symmetric", "headroom": LONGEST_NUMBER},
        "copies": dict.fromkeys(names, HIGHEST_BITS),
        "frozen": list(names),
        "backward": backward and backward.model_dump(),
        "link": _numbers(Link.model_fields) | {"down": "stochastic", "send": "delta", "rounding": "stochastic"},
    }
    if adapted:
        highest = dict.fromkeys(adapted, HIGHEST_BITS)
        worst["adaptation"] = _numbers(Adaptation.model_fields) | {"measure": "gradient", "highest": highest}
    return room_of({"instructions": worst})


def report_room(layers: Collection[str], segments: int = 0, longest: Collection[tuple[int, int]] | None = None) -> int:
    """Return the room for a report and what it replies to. That of an evaluation is shorter.

    layers: the quantised ones; segments: how many there may be, `Instructions.most_segments`;
    longest: of a client with a sample filter, `Filter.longest`.
    """
    batches = {str(LONGEST_NUMBER + size): LONGEST_NUMBER for size in range(MOST_BATCH_SIZES)}
    filtered: dict[str, object] = {}
    if longest is not None:
        batches = {str(size): count for size, count in longest}
        filtered = {"filtered": _numbers(Filtered.model_fields)}
    worst = (
        _numbers(name for name in TrainReport.model_fields if name != "filtered")
        | filtered
        | {
            "kind": "trained",
            "batches": batches,
            "layers": {layer: _numbers(LayerReport.model_fields) for layer in layers},
            "segments": [{"bits": [HIGHEST_BITS] * len(layers), "batches": batches} | filtered] * segments,
        }
    )
    return room_of({"report": worst, "reply_to": _numbers(ReplyTo.model_fields) | {"digest": "0" * DIGEST_DIGITS}})


def _numbers(fields: Iterable[str]) -> dict[str, object]:
    return dict.fromkeys(fields, LONGEST_NUMBER)
