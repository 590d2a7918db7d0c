"""Stochastic gradient descent on a single copy: each weight moves as soon as its gradient exists, and the gradient is then gone.

The step is taken in real units and re-gridded (`code - round(lr * gradient / scale)`), which makes the quantisation-aware
scaling of Lin et al., "On-Device Training Under 256KB Memory" (arXiv 2206.15472), the identity.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fedapt.errors import RunFailed
from fedapt.quant.layers import Quantised, QuantisedLayer
from fedapt.quant.rounding import Rounding
from fedapt.quant.weight import CodedWeight, UpdateStatistics


@dataclass(frozen=True)
class LayerStatistics:
    """Means over the observed steps of a layer: Gavg as in APT, and the shares of weights that underflowed and clipped."""

    gavg: float
    underflow_share: float
    clip_share: float


class SingleCopySGD:
    """Plain SGD for a model that `quantise` prepared; float parameters (biases, norms) take ordinary steps, also at once.

    It holds on to the model until it is closed: use it in a `with` statement, or keep it for the model's life.

    A layer's gradient that is not finite ends the training with RunFailed.

    proximal: FedProx's mu (arXiv 1812.06127): pulls towards the weights at the start, of which it then keeps a second copy.
    correction: by parameter name, what is added to the gradient in every step, as in SCAFFOLD; used as it is, not copied.
    at_once: whether a layer moves as soon as its gradient exists; if not, all gradients of a step are held until its end.
    """

    def __init__(
        self,
        model: nn.Module,
        quantised: Quantised,
        lr: float,
        rounding: Rounding,
        generator: torch.Generator,
        *,
        proximal: float = 0.0,
        correction: Mapping[str, Tensor] | None = None,
        at_once: bool = True,
    ) -> None:
        self.lr, self.rounding, self.generator, self.proximal = lr, rounding, generator, proximal
        self.layers = quantised.layers
        self.steps = 0
        self._observe = True
        self._seen: dict[str, list[UpdateStatistics]] = defaultdict(list)
        self._starts: dict[int, Tensor] = {}
        self._corrections: dict[int, Tensor] = {}
        self._hooks: list[RemovableHandle] = []
        self._held: list[tuple[QuantisedLayer, Tensor]] = []
        take = self._move_codes if at_once else self._hold
        for layer in self.layers.values():
            layer.on_gradient, layer.generator = take, generator
            self._correct(id(layer), correction, f"{layer.name}.weight")
            self._remember(id(layer), layer.weight.dequantise())
            if layer.trainable and layer.is_plain and at_once:
                layer.leaf = layer.weight.dequantise().detach().requires_grad_()
                self._hook(layer.leaf, partial(self._move_plain, layer))
        # The others move in autograd's own hooks, which wait for the last use.
        self._stepped = [layer for layer in self.layers.values() if layer.leaf is None]
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self._correct(id(parameter), correction, name)
                self._remember(id(parameter), parameter.detach())
                self._hook(parameter, self._move_float)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the model, so that another optimiser can take it."""
        for hook in self._hooks:
            hook.remove()
        for layer in self.layers.values():
            layer.on_gradient = layer.generator = layer.leaf = None

    @contextmanager
    def step(self, observe: bool = True) -> Iterator[None]:
        """Enclose one forward and backward pass, at whose end the weights have moved; observing costs some time."""
        self._observe = observe
        for layer in self._stepped:
            layer.begin_step()
        yield
        for layer in self._stepped:
            layer.end_step()
        while self._held:
            self._move_codes(*self._held.pop())
        self.steps += 1

    def _hold(self, layer: QuantisedLayer, gradient: Tensor) -> None:
        self._held.append((layer, gradient))

    def take_statistics(self) -> dict[str, LayerStatistics]:
        """Return what was observed since the last call, for each layer that holds codes and has moved."""
        seen, self._seen = self._seen, defaultdict(list)
        return {name: _mean(updates, self._moving(self.layers[name])) for name, updates in seen.items()}

    def _moving(self, layer: QuantisedLayer) -> int:
        part = layer.rule.part
        return math.prod(part.shape(layer.weight.shape) if part else layer.weight.shape)

    def _move_plain(self, layer: QuantisedLayer, leaf: Tensor) -> None:
        gradient, leaf.grad = leaf.grad, None
        if gradient is not None:
            self._move_codes(layer, gradient)

    def _move_codes(self, layer: QuantisedLayer, gradient: Tensor) -> None:
        self._check_finite(layer.name, gradient)
        part = layer.rule.part
        some: Callable[[Tensor], Tensor] = part.of if part else lambda values: values
        if self.proximal:
            gradient.add_(some(layer.weight.dequantise()), alpha=self.proximal)
            gradient.sub_(some(self._starts[id(layer)]), alpha=self.proximal)
        if id(layer) in self._corrections:
            gradient.add_(some(self._corrections[id(layer)]))
        if not layer.rule.scaled and isinstance(layer.weight, CodedWeight):
            whole = layer.weight.grid.scale
            own = part.of(whole) if part and part.dim == 0 and len(whole) > 1 else whole
            gradient.mul_(own.square().view(-1, *(1,) * (gradient.dim() - 1)))
        step = (gradient, self.lr, self.rounding, self.generator, self._observe)
        statistics = part.move(layer.weight, *step) if part else layer.weight.apply(*step)
        if statistics is not None:
            self._seen[layer.name].append(statistics)

    def _move_float(self, parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        if gradient is None:
            return
        if self.proximal:
            gradient.add_(parameter - self._starts[id(parameter)], alpha=self.proximal)
        if id(parameter) in self._corrections:
            gradient.add_(self._corrections[id(parameter)])
        parameter.add_(gradient, alpha=-self.lr)

    def _check_finite(self, name: str, gradient: Tensor) -> None:
        """Raise RunFailed before a NaN becomes an undefined code; the sum alone is cheap, and can overflow without one."""
        if not math.isfinite(gradient.sum().item()) and not math.isfinite(torch.linalg.vector_norm(gradient, math.inf).item()):
            raise RunFailed(f"the gradient of {name} became non-finite in step {self.steps + 1}: lower clients.local.lr")

    def _hook(self, leaf: Tensor, move: Callable[[Tensor], None]) -> None:
        self._hooks.append(leaf.register_post_accumulate_grad_hook(move))  # type: ignore[no-untyped-call]

    def _remember(self, key: int, start: Tensor) -> None:
        if self.proximal:
            self._starts[key] = start.clone()

    def _correct(self, key: int, correction: Mapping[str, Tensor] | None, name: str) -> None:
        if correction:
            self._corrections[key] = correction[name]


def _mean(seen: list[UpdateStatistics], weights: int) -> LayerStatistics:
    total = len(seen) * weights
    return LayerStatistics(
        gavg=sum(s.step_sum for s in seen) / total,
        underflow_share=sum(s.underflow for s in seen) / total,
        clip_share=sum(s.clipped for s in seen) / total,
    )
