"""How gradients are computed. A new method is one file here and one line in this table."""

from fedapt.clients.backward.exact import Exact
from fedapt.clients.backward.rule import Backward

RULES: dict[str, type[Backward]] = {
    "exact": Exact,
}
