"""Ordinary backpropagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from fedapt.clients.backward.rule import Backward
from fedapt.quant.treatment import Module, Treatment


class Exact(Backward):
    """Every gradient in full."""

    kind: Literal["exact"] = "exact"

    def treat(self, modules: Sequence[Module]) -> Mapping[str, Treatment]:
        """Return no treatment: every layer trains as autograd would train it."""
        return {}
