"""The wish is federated, the budget is private: which bits each policy asks for, before any client's budget is looked at.

A client takes part in few rounds, so bits that only its own history can raise would come too late. Every update carries its
layers' Gavg; all clients with the same policy share one wish and one running mean of it. With `scope: client` each client has
its own.

What a round says of a layer is the lowest decile over its clients (of ten clients, the lowest), not their mean: with non-IID
data Gavg differs by orders of magnitude, a few clients with large gradients would speak for all, and the others' updates would
go on being lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedapt.clients.instructions import LayerReport
from fedapt.clients.precision.policy import Policy
from fedapt.quant import FLOAT_BITS
from fedapt.quant.weight import gavg_at

DECILE = 0.1
NEWEST = 0.5
UNIT_BITS = 8


@dataclass
class Wish:
    """bits: by layer; gavg: by layer, the running mean of Gavg as it would be at 8 bits, so that it survives a change of bits."""

    bits: dict[str, int]
    gavg: dict[str, float] = field(default_factory=dict)


class Wishes:
    """The wishes of a run; what they hold between rounds is numbers by name."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = layers
        self.wishes: dict[str, Wish] = {}

    def of(self, policy: Policy, client: int) -> Wish:
        """Return the wish that holds for a client with this policy."""
        key = policy.model_dump_json() + (f"#{client}" if policy.scope == "client" else "")
        if key not in self.wishes:
            self.wishes[key] = Wish(policy.start(self._layers))
        return self.wishes[key]

    def learn(
        self, policy: Policy, lr: float, updates: Iterable[tuple[int, Mapping[str, int], Mapping[str, LayerReport]]]
    ) -> None:
        """Take (client, bits, report by layer) of one round's admitted updates in client order; adapt the wishes concerned."""
        seen: dict[int, tuple[Wish, list[tuple[Mapping[str, int], Mapping[str, LayerReport]]]]] = {}
        for client, bits, reports in updates:
            wish = self.of(policy, client)
            seen.setdefault(id(wish), (wish, []))[1].append((bits, reports))
        for wish, observed in seen.values():
            for layer in self._layers:
                values = [
                    gavg_at(reports[layer].gavg, bits[layer], UNIT_BITS, policy.grid)
                    for bits, reports in observed
                    if layer in reports and bits[layer] != FLOAT_BITS
                ]
                if values:
                    now = float(np.quantile(values, DECILE, method="lower"))
                    wish.gavg[layer] = now if layer not in wish.gavg else (1 - NEWEST) * wish.gavg[layer] + NEWEST * now
            here = {layer: gavg_at(mean, UNIT_BITS, wish.bits[layer], policy.grid) for layer, mean in wish.gavg.items()}
            wish.bits = policy.adapt(wish.bits, here, lr)
