"""Ordinary backpropagation."""

from __future__ import annotations

from typing import Literal

from fedapt.clients.backward.rule import Backward
from fedapt.quant import BackwardRule


class Exact(Backward):
    """Every gradient in full."""

    kind: Literal["exact"] = "exact"

    def rule(self) -> BackwardRule:
        """Return the rule that computes what autograd would."""
        return BackwardRule()
