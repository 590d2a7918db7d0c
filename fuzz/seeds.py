"""Write the committed seeds again, after a change of a format: `python -m fuzz.seeds`."""

from __future__ import annotations

import hashlib
import json
import struct

import numpy as np
import torch
from flwr.app import ArrayRecord

from fedapt.clients.instructions import EvaluateReport
from fedapt.clients.precision.policy import Wish
from fedapt.cost.ledger import LedgerRow, RoundRecord
from fedapt.grid.wishes import Learned
from fedapt.quant import CodedWeight, FloatWeight, Grid
from fedapt.quant.weight import Weight
from fedapt.quant.wire import PROTOCOL, QuantisedModel, to_bytes
from fedapt.record.checkpoint import Checkpoint
from fedapt.record.commits import manifest
from fedapt.record.ledger_file import encode
from fedapt.record.tables import rounds_csv
from fuzz.harness import ROOT
from fuzz.messages import DIGITS, sealed
from fuzz.record import as_state
from fuzz.reply import honest

RECORD = RoundRecord(0, 0.5, 1.5, None, 4.0, {"a": 4}, 2, 1, 1, 0, 0.25, 2.0, 2.0, 100, 90, 5000, 0.125)
SMALLEST = b"version: 1\nname: a\nrounds: 1\ndata: {}\nmodel: cnn\nclients: {count: 2, per_round: 1}\n"


def coded(bits: int, *shape: int) -> CodedWeight:
    """Return a layer of codes that count up from 0, with a scale for each of its first dimension's channels."""
    kind = np.uint8 if bits <= 8 else np.uint16
    codes = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % 2**bits
    scale = torch.linspace(0.125, 1.0, shape[0])
    return CodedWeight(torch.from_numpy(codes.astype(kind)), Grid(scale, torch.full_like(scale, 1.0), bits))


def checkpoint() -> Checkpoint:
    """Return a small state of a run, with a value of every kind."""
    array = np.arange(3, dtype=np.float32)
    memory = {
        "momentum": {"out.bias": array},
        "eta": (0.5, float("inf")),
        "rounds": {1: np.float64(2)},
        "records": ArrayRecord([array]),
    }
    scores = {2: EvaluateReport(samples=3, correct=2, loss=0.5)}
    wishes = {"fixed:0.1": Learned(Wish({"conv": 4}), {"conv": 0.5})}
    return Checkpoint({"out.bias": array}, memory, "", wishes, scores, {3: 1.5}, {"clients": {}})


def seeds() -> dict[str, bytes]:
    """Return every seed by its path within the corpus."""
    floats = {"norm.bias": torch.arange(3.0), "gain": torch.tensor(1.5)}
    mixed: dict[str, Weight] = {"a": coded(4, 2, 3), "b": coded(11, 3, 1, 2), "c": FloatWeight(torch.ones(2, 2))}
    return _found() | {
        "codec/mixed": to_bytes(QuantisedModel(mixed, floats), {"note": 1}),
        "codec/widths": to_bytes(QuantisedModel({"a": coded(16, 2, 3), "b": coded(2, 5), "c": coded(8, 1, 1, 1)}, {}), {}),
        "codec/floats": to_bytes(QuantisedModel({"a": FloatWeight(torch.zeros(0))}, floats), {"instructions": {"lr": 0.1}}),
        "codec/refused": bytes([8]) + bytes(20),
        "codec/refused-correction": to_bytes(QuantisedModel({}, floats, dict(floats)), {}),
        "reply/trained": honest(evaluate=False),
        "reply/evaluated": honest(evaluate=True),
        "reply/refused": b"{",
        "record/state": as_state(checkpoint().files()),
        "record/manifest": b"manifest\n" + manifest({"a": (5, hashlib.sha256(b"hello").hexdigest())}),
        "record/ledger": b"ledger\n" + encode([LedgerRow(0, 7, 1, "group", "phone", "ok", layer_bits=[4], gavg=[0.5])], ["a"]),
        "record/rounds": b"rounds\n" + rounds_csv([RECORD], ["a"]).encode(),
        "record/summary": b'summary\n{"rounds": 1, "accuracy": null, "groups": [{"group": "all"}]}\n',
        "record/refused": b"manifest\n" + b"[" * 2000,
        "scenario/noniid": (ROOT / "scenarios" / "noniid.yaml").read_bytes(),
        "scenario/smallest": SMALLEST,
        "scenario/refused": b"a: !!python/object/apply:os.system [true]\n",
    }


def _found() -> dict[str, bytes]:
    """Return what fuzzing has found, one input for each finding."""
    digest = {"digest": "0" * DIGITS}
    surrogate = sealed({"__metadata__": {}}, digest | {"protocol": PROTOCOL, "layers": {"\ud800": [4, 1]}}, b"")
    latin = b'{"__metadata__":{"fedapt":"' + b"x" * 2000 + b"\xff" + b'"}}'
    files = {"state.safetensors": checkpoint().files()["state.safetensors"]}
    return {
        "codec/refused-surrogate": surrogate,
        "codec/refused-latin": struct.pack("<Q", len(latin)) + latin,
        "record/refused-nul": b'manifest\n{"files": {"\\u0000": ""}}',
        "record/refused-name": b'manifest\n{"files": {"\\ud800": {}}}',
        "record/refused-number": as_state({"state.json": _edited("model", 0.5), **files}),
        "record/refused-dunder": as_state({"state.json": _edited("strategy", {"__class__": 1}), **files}),
    }


def _edited(part: str, value: object) -> bytes:
    return json.dumps(json.loads(checkpoint().files()["state.json"]) | {part: value}).encode()


if __name__ == "__main__":
    for name, content in seeds().items():
        path = ROOT / "fuzz" / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
