"""What a server may lend a client that cannot afford ordinary backpropagation, for the ladder of `fedapt.cost.ladder`."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fedapt.clients.backward.gradient_filter import FilteredConv, GradientFilter
from fedapt.clients.backward.rule import Backward, GlobalModel
from fedapt.clients.backward.sparse_update import SparseUpdate
from fedapt.cost.workload import Lender, Workloads
from fedapt.quant.ops import ConvOp, op_of
from fedapt.quant.treatment import Scheme

PATCHES = (2, 4)


def lenders(backward: Backward, model: GlobalModel, *, pretrained: bool) -> Mapping[str, Lender]:
    """Return what searches schemes, by the ladder's step; `own` is for a method that is searched itself.

    Filtered gradients adapt a model that has learned something, and ruin one that has not: only with `pretrained` are they lent.
    """
    if own := backward.search(model):
        return {"own": own}
    if backward.kind != "exact":
        return {}
    sparse = SparseUpdate().search(model)
    return ({"filter": FilterSearch(model)} if pretrained else {}) | ({"sparse": sparse} if sparse else {})


@dataclass(frozen=True, eq=False)
class FilterSearch:
    """Searches how many of the last convolutions are filtered, all of which must be faster for it: as many as the device fits."""

    model: GlobalModel

    def __call__(self, workloads: Workloads, device: Hashable, fits: Callable[[Scheme], bool]) -> Scheme | None:
        """Return the most convolutions, with the smallest patch, that fit; as `Lender`."""
        for patch in PATCHES:
            for layers in range(self._paying(patch), 0, -1):
                scheme = Scheme(backward=GradientFilter(patch=patch, layers=layers))
                if fits(scheme):
                    return scheme
        return None

    def _paying(self, patch: int) -> int:
        """Return how many of the last convolutions a filter makes faster, one after the other from the last on."""
        count = 0
        for op, *shapes in reversed(self._convolutions):
            if not FilteredConv(patch, tuple(shapes[0][2:])).pays(op, *shapes):
                return count
            count += 1
        return count

    @cached_property
    def _convolutions(self) -> list[tuple[ConvOp, tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """Return the convolutions in the model's order: each with the shapes of its weight, input and output, for one sample."""
        net, seen = self.model.build().eval(), dict[str, tuple[Any, ...]]()

        def note(name: str, op: ConvOp) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                weight: Any = module.weight
                seen[name] = (op, tuple(weight.shape), tuple(args[0].shape), tuple(output.shape))

            return hook

        for name, module in net.named_modules():
            if isinstance(op := op_of(module), ConvOp):
                module.register_forward_hook(note(name, op))
        shape = (1, *self.model.input_shape)
        with torch.no_grad():
            net(torch.ones(shape, dtype=torch.int64) if self.model.vocabulary else torch.zeros(shape))
        return [seen[module.name] for module in self.model.modules if module.name in seen]
