"""What is worked out once for clients that are alike: memories by value, bounded, of which nothing but time depends."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fedapt.clients.instructions import Instructions
from fedapt.cost.ledger import LedgerRow
from fedapt.cost.planner import Plan, Refusal

MOST = 512

Value = TypeVar("Value")


class Memory(dict[Hashable, Value], Generic[Value]):
    """Answers by question; when it is full it forgets them all."""

    def keep(self, question: Hashable, answer: Value) -> Value:
        """Remember an answer, and return it."""
        if len(self) >= MOST:
            self.clear()
        self[question] = answer
        return answer


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of the clients of one group and device; a question names all in which they may differ.

    wished_j: what a round at a wish costs; told: instructions, but for seed, round and client; rows: what equal work costs.
    """

    plans: Memory[Plan | Refusal] = field(default_factory=Memory)
    wished_j: Memory[float] = field(default_factory=Memory)
    told: Memory[Instructions] = field(default_factory=Memory)
    rows: Memory[LedgerRow] = field(default_factory=Memory)
