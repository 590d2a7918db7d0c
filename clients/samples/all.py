"""Train on every sample."""

from __future__ import annotations

from typing import Literal

from fedapt.clients.samples.filter import Filter


class All(Filter):
    """Take the whole batch."""

    kind: Literal["all"] = "all"

    @property
    def takes_all(self) -> bool:
        """True."""
        return True
