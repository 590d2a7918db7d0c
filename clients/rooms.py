"""How many bytes of a message its header takes, whatever is in it: the length of a message is known before there is one.

A room holds the worst case, built from the fields of what is sent: a new field counts as a number until it is named here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fedapt.clients.adaptation import Adaptation
from fedapt.clients.instructions import Instructions, LayerReport, ReplyTo, TrainReport
from fedapt.clients.link import Link
from fedapt.quant.grid import HIGHEST_BITS
from fedapt.quant.wire import DIGEST_DIGITS, room_of

# 25 digits: a float has 24 characters at most, a 64-bit whole number 20.
LONGEST_NUMBER = 10**24
# Whole batches, and one with the rest.
MOST_BATCH_SIZES = 2


def instructions_room(names: Collection[str], adapted: Collection[str] = ()) -> int:
    """Return the room for instructions.

    names: of all modules of which there may be a copy, or that may be frozen; adapted: of layers whose bits the client adapts.
    """
    worst = _numbers(Instructions.model_fields) | {
        "rounding": "stochastic",
        "grid": {"granularity": "channel", "range": "symmetric", "headroom": LONGEST_NUMBER},
        "copies": dict.fromkeys(names, HIGHEST_BITS),
        "frozen": list(names),
        "link": _numbers(Link.model_fields) | {"down": "stochastic", "send": "delta", "rounding": "stochastic"},
    }
    if adapted:
        highest = dict.fromkeys(adapted, HIGHEST_BITS)
        worst["adaptation"] = _numbers(Adaptation.model_fields) | {"measure": "gradient", "highest": highest}
    return room_of({"instructions": worst})


def report_room(layers: Collection[str], segments: int = 0) -> int:
    """Return the room for a report and what it replies to. That of an evaluation is shorter.

    layers: the quantised ones; segments: how many there may be, `Instructions.most_segments`.
    """
    batches = {str(LONGEST_NUMBER + size): LONGEST_NUMBER for size in range(MOST_BATCH_SIZES)}
    worst = _numbers(TrainReport.model_fields) | {
        "kind": "trained",
        "batches": batches,
        "layers": {layer: _numbers(LayerReport.model_fields) for layer in layers},
        "segments": [{"bits": [HIGHEST_BITS] * len(layers), "batches": batches}] * segments,
    }
    return room_of({"report": worst, "reply_to": _numbers(ReplyTo.model_fields) | {"digest": "0" * DIGEST_DIGITS}})


def _numbers(fields: Iterable[str]) -> dict[str, object]:
    return dict.fromkeys(fields, LONGEST_NUMBER)
