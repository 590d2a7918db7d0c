"""The contract of a backward method: how gradients are computed, and what that costs."""

from __future__ import annotations

from fedapt.cost.shapes import LayerShape
from fedapt.cost.trace import Op, exact_ops
from fedapt.options import Kind
from fedapt.quant import BackwardRule


class Backward(Kind):
    """The `backward:` block of a scenario; one file in `clients/backward` adds one."""

    def rule(self) -> BackwardRule:
        """Return the rule that every quantised layer uses."""
        raise NotImplementedError

    def ops(self, shape: LayerShape, bits: int) -> tuple[Op, ...]:
        """Return the arithmetic of one layer in one step, for the cost model; ordinary backpropagation unless replaced."""
        return exact_ops(shape, bits)
