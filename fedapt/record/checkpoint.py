"""What the next round needs of the rounds before it, besides their ledgers, as two files: `state.json` and `state.safetensors`.

Random positions are not among it: every stream is keyed by its round.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedapt.clients.instructions import EvaluateReport
from fedapt.clients.precision.policy import Wish
from fedapt.errors import DamagedData
from fedapt.grid.wishes import Learned
from fedapt.record.plain import pack, unpack

SCORE = {"client": np.int64, "samples": np.int64, "correct": np.int64, "loss": np.float64}
BATTERY = {"client": np.int64, "level_j": np.float64}
PARTS = {"model", "strategy", "obstacle", "wishes", "scores", "batteries", "gateway"}


@dataclass(frozen=True)
class Checkpoint:
    """model: float32 arrays by parameter name; strategy: its plain data, or None and in `obstacle` why it has no such data;
    gateway: what clients keep between their rounds and, without rounds, who is at work and with what, as plain data.
    """

    model: Mapping[str, np.ndarray]
    strategy: Mapping[str, Any] | None
    obstacle: str
    wishes: Mapping[str, Learned]
    scores: Mapping[int, EvaluateReport]
    batteries: Mapping[int, float]
    gateway: Mapping[str, Any]

    def files(self) -> dict[str, bytes]:
        """Return the contents of both files by name."""
        state = {
            "model": dict(self.model),
            "strategy": self.strategy,
            "obstacle": self.obstacle,
            "wishes": {key: vars(learned.wish) | {"gavg": learned.gavg} for key, learned in self.wishes.items()},
            "scores": _table(SCORE, [(client, one.samples, one.correct, one.loss) for client, one in self.scores.items()]),
            "batteries": _table(BATTERY, list(self.batteries.items())),
            "gateway": dict(self.gateway),
        }
        from safetensors.numpy import save

        arrays: dict[str, np.ndarray] = {}
        packed = {name: pack(part, arrays, name) for name, part in state.items()}
        return {"state.json": json.dumps(packed, allow_nan=False).encode(), "state.safetensors": save(arrays)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Checkpoint:
        """Read what `files` returned; raises DamagedData for anything else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            state = unpack(json.loads(files["state.json"]), load(files["state.safetensors"]))
            if state.keys() != PARTS:
                raise ValueError(f"it has the parts {', '.join(state)}")
            _check(state)
            wishes = {key: _learned(dict(wish)) for key, wish in state["wishes"].items()}
            scores = {
                client: EvaluateReport(samples=samples, correct=correct, loss=loss)
                for client, samples, correct, loss in _lines(SCORE, state["scores"])
            }
            batteries = dict(_lines(BATTERY, state["batteries"]))
            told = state["strategy"], state["obstacle"]
            return cls(state["model"], *told, wishes, scores, batteries, state["gateway"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise DamagedData(f"the state of a round cannot be read ({type(error).__name__}: {reason})") from None


def _table(columns: Mapping[str, type[np.generic]], lines: Sequence[tuple[float, ...]]) -> dict[str, np.ndarray]:
    """Return lines as one array a column: ten thousand clients are written after every round."""
    found = zip(*lines, strict=True) if lines else ((),) * len(columns)
    return {name: np.array(values, kind) for (name, kind), values in zip(columns.items(), found, strict=True)}


def _lines(columns: Mapping[str, type[np.generic]], table: Mapping[str, np.ndarray]) -> Iterator[tuple[Any, ...]]:
    """Return the lines of a table; raises ValueError, KeyError, TypeError or AttributeError for anything else."""
    if odd := [name for name, kind in columns.items() if table[name].dtype != kind or not np.isfinite(table[name]).all()]:
        raise ValueError(f"a table's column {odd[0]} is not of finite {columns[odd[0]].__name__}")
    return zip(*(table[name].tolist() for name in columns), strict=True)


def _learned(wish: dict[str, Any]) -> Learned:
    gavg = wish.pop("gavg")
    return Learned(Wish(**wish), gavg)


def _check(state: Mapping[str, Any]) -> None:
    """Check that the parts are what they are called, whoever wrote them; raises ValueError, TypeError or AttributeError."""
    for name, values in state["model"].items():
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or not np.isfinite(values).all():
            raise ValueError(f"{name} of its model is not an array of finite float32 numbers")
    # They become attributes of the strategy: none of those with which Python itself works.
    if odd := [name for name in state["strategy"] or {} if not isinstance(name, str) or name.startswith("__")]:
        raise ValueError(f"a strategy cannot remember {odd[0]!r}")
    if not isinstance(state["strategy"], dict | None) or not isinstance(state["obstacle"], str):
        raise ValueError("its strategy or its obstacle is of another type")
    for wish in state["wishes"].values():
        if not all(type(bits) is int for bits in wish["bits"].values()) or not all(map(math.isfinite, wish["gavg"].values())):
            raise ValueError("a wish is not of whole bits and finite Gavg")
    if not isinstance(state["gateway"], dict):
        raise ValueError("its clients' state is of another type")
