"""How gradients are computed. A new method is one file here and one line in this table."""

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from fedapt.clients.backward.error_map_pruning import ErrorMapPruning
from fedapt.clients.backward.exact import Exact
from fedapt.clients.backward.gradient_filter import GradientFilter
from fedapt.clients.backward.rule import Backward
from fedapt.clients.backward.sparse_update import SparseUpdate

RULES: dict[str, type[Backward]] = {
    "exact": Exact,
    "error_map_pruning": ErrorMapPruning,
    "gradient_filter": GradientFilter,
    "sparse_update": SparseUpdate,
}


def _read(block: Any) -> Any:
    kind = block.get("kind") if isinstance(block, dict) else None
    if kind is None:
        return block
    if kind not in RULES:
        raise ValueError(f"unknown method `{kind}`, known are {', '.join(RULES)}; upgrade fedapt on this side")
    return RULES[kind].model_validate(block)


SentBackward = Annotated[SerializeAsAny[Backward], BeforeValidator(_read)]
"""A `backward:` block as it crosses the network."""
