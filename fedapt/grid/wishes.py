"""The wish is federated, the budget is private: which bits each policy asks for, before any client's budget is looked at.

A client takes part in few rounds, so bits that only its own history can raise would come too late. Every update carries its
layers' Gavg; all clients with the same policy share one wish and one running mean of it. With `scope: client` each client has
its own.

What a round says of a layer is the lowest decile over its clients (of ten clients, the lowest), not their mean: with non-IID
data Gavg differs by orders of magnitude, a few clients with large gradients would speak for all, and the others' updates would
go on being lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fedapt.clients.instructions import TrainReport
from fedapt.clients.precision.evidence import UNIT_BITS, Evidence
from fedapt.clients.precision.policy import Policy, Wish
from fedapt.quant import FLOAT_BITS
from fedapt.quant.grid import fit
from fedapt.quant.weight import gavg_at

DECILE = 0.1
NEWEST = 0.5

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Observation:
    """One admitted update, and what the client says about it.

    bits: of its layers when they were observed, at the end; moves: by how many bits the client itself has moved them, by layer.
    """

    client: int
    policy: Policy
    lr: float
    bits: Mapping[str, int]
    report: TrainReport
    moves: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Learned:
    """A wish, and the running mean of Gavg by layer, as it would be at 8 bits."""

    wish: Wish
    gavg: dict[str, float] = field(default_factory=dict)


class Wishes:
    """The wishes of a run; what they hold between rounds is plain data by name."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = layers
        self._observed: list[Observation] = []
        self._names: dict[int, tuple[Policy, str]] = {}
        self.learned: dict[str, Learned] = {}

    def of(self, policy: Policy, client: int) -> Wish:
        """Return the wish that holds for a client with this policy."""
        return self._learned(policy, client).wish

    def observe(self, observation: Observation) -> None:
        """Keep what a client said until the round is aggregated."""
        self._observed.append(observation)

    def adapt(self, before: Arrays, after: Arrays) -> None:
        """Let every policy learn from the round, whose aggregation made one global model of another."""
        observed, self._observed = sorted(self._observed, key=lambda seen: seen.client), []
        concerned: dict[int, tuple[Learned, list[Observation]]] = {}
        for seen in observed:
            learned = self._learned(seen.policy, seen.client)
            concerned.setdefault(id(learned), (learned, []))[1].append(seen)
        weights = {layer: after[f"{layer}.weight"] for layer in self._layers}
        update = {layer: values - before[f"{layer}.weight"] for layer, values in weights.items()}
        for learned, same in concerned.values():
            policy = same[0].policy
            learned.gavg |= _running_means(learned.gavg, policy, same)
            evidence = Evidence(
                lr=math.fsum(seen.lr for seen in same) / len(same),
                grid=policy.grid,
                gavg=learned.gavg,
                step={
                    layer: float(fit(torch.from_numpy(weights[layer]), UNIT_BITS, policy.grid).scale.mean()) for layer in weights
                },
                weights={layer: values.size for layer, values in weights.items()},
                moves={layer: max(seen.moves.get(layer, 0) for seen in same) for layer in weights},
                update=update,
                updates=len(observed),
                train_loss=_train_loss(same),
            )
            learned.wish = policy.adapt(learned.wish, evidence)

    def discard(self) -> None:
        """Forget a round that came to nothing."""
        self._observed = []

    def _learned(self, policy: Policy, client: int) -> Learned:
        key = self._name(policy) + (f"#{client}" if policy.scope == "client" else "")
        if key not in self.learned:
            self.learned[key] = Learned(Wish(policy.start(self._layers)))
        return self.learned[key]

    def _name(self, policy: Policy) -> str:
        """Return what equal policies share; asked for every client, of few policies, and writing one out takes its time."""
        if id(policy) not in self._names:
            self._names[id(policy)] = policy, policy.model_dump_json()
        return self._names[id(policy)][1]


def _running_means(gavg: Mapping[str, float], policy: Policy, same: Sequence[Observation]) -> dict[str, float]:
    """Return the new running mean of each layer that was observed."""
    means = {}
    for layer in dict.fromkeys(name for seen in same for name in seen.report.layers):
        values = [
            gavg_at(seen.report.layers[layer].gavg, seen.bits[layer], UNIT_BITS, policy.grid)
            for seen in same
            if layer in seen.report.layers and seen.bits[layer] != FLOAT_BITS
        ]
        if values:
            now = float(np.quantile(values, DECILE, method="lower"))
            means[layer] = now if layer not in gavg else (1 - NEWEST) * gavg[layer] + NEWEST * now
    return means


def _train_loss(same: Sequence[Observation]) -> float | None:
    reports = [seen.report for seen in same if seen.report.train_loss is not None and seen.report.samples]
    samples = sum(report.samples for report in reports)
    return math.fsum(report.samples * (report.train_loss or 0.0) for report in reports) / samples if samples else None
