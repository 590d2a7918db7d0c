"""Many models of one architecture, trained as one batch of tensors: each step is taken for all of them at once.

It computes what a client alone would, but adds in another order: the last bits differ. Stacks of dense layers have a forward and
backward pass of their own, in which the gradient is added to the weights as it is computed; all others go through `torch.func`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

# Layers without buffers and without randomness, through which a batch of models passes as well as one.
STACKABLE = frozenset({
    nn.Sequential, nn.Flatten, nn.Identity, nn.Linear, nn.Conv1d, nn.Conv2d, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.MaxPool1d,
    nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.GroupNorm, nn.LayerNorm,
})  # fmt: skip


def is_stackable(model: nn.Module) -> bool:
    """Return whether models like this one can be trained as one batch of tensors."""
    parameters = list(model.named_parameters(remove_duplicate=False))
    return (
        all(type(module) in STACKABLE for module in model.modules())
        and all(values.requires_grad for _, values in parameters)
        and len(parameters) == len({id(values) for _, values in parameters})
    )


def is_dense(model: nn.Module) -> bool:
    """Return whether it is one Flatten, then Linear layers with biases, each but the last followed by a ReLU."""
    layers = list(model) if type(model) is nn.Sequential else []
    if not layers or type(layers[0]) is not nn.Flatten or (layers[0].start_dim, layers[0].end_dim) != (1, -1):
        return False
    linear = [layer for layer in layers[1::2] if type(layer) is nn.Linear and layer.bias is not None]
    relu = [layer for layer in layers[2::2] if type(layer) is nn.ReLU]
    return len(layers) % 2 == 0 and len(linear) == len(layers) // 2 and len(relu) == len(linear) - 1


@dataclass(frozen=True)
class Stack:
    """Models under training, those with the most steps first: a step moves as many of them as are still at work.

    values: (clients, *shape) by parameter name, moved in place; starts: (*shape); lr: (clients,) float32.
    mu: FedProx's pull to the start (arXiv 1812.06127); corrections: what is added to gradients, shaped like `values`, or empty.
    """

    values: Mapping[str, Tensor]
    starts: Mapping[str, Tensor]
    lr: Tensor
    mu: float
    corrections: Mapping[str, Tensor]

    def move(self, name: str, working: int, take: Callable[[Tensor], object]) -> None:
        """Move a parameter of the first `working` models: all but the gradient, for which `take` is handed the values."""
        values = self.values[name][:working]
        lr = self.lr[:working].view(-1, *[1] * (values.dim() - 1))
        if self.mu:
            values.lerp_(self.starts[name].expand_as(values), lr * self.mu)
        if self.corrections:
            values.addcmul_(self.corrections[name][:working], lr, value=-1)
        take(values)


# Takes one step: inputs (working, batch, ...), labels and shares (working, batch); returns each sample's loss (working, batch).
# shares: what each sample's loss counts for in the step, the learning rate included; 0 for samples that only fill up a batch.
Step = Callable[[Stack, Tensor, Tensor, Tensor], Tensor]


def step_of(model: nn.Module) -> Step:
    """Return what takes a step of models of this architecture."""
    return _Dense(model) if is_dense(model) else _Vmapped(model)


class _Vmapped:
    """Any stackable model, by autograd."""

    def __init__(self, model: nn.Module) -> None:
        # Only its structure is used: `functional_call` puts other parameters in.
        self._forward = vmap(lambda parameters, inputs: functional_call(model, parameters, (inputs,)))

    def __call__(self, stack: Stack, inputs: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        working = len(inputs)
        leaves = {name: values[:working].detach().requires_grad_() for name, values in stack.values.items()}
        with torch.enable_grad():
            logits = self._forward(leaves, inputs)
            losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
            gradients = torch.autograd.grad((losses * shares).sum(), list(leaves.values()))
        for name, gradient in zip(leaves, gradients, strict=True):
            stack.move(name, working, lambda values, gradient=gradient: values.sub_(gradient))  # type: ignore[misc]
        return losses.detach()


class _Dense:
    """Dense layers with ReLU between them: a quarter of autograd's time on a CPU, and no gradient is ever stored."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [name for name, module in model.named_modules() if type(module) is nn.Linear]

    def __call__(self, stack: Stack, inputs: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        working = len(inputs)
        weights = [stack.values[f"{layer}.weight"][:working] for layer in self._layers]
        biases = [stack.values[f"{layer}.bias"][:working].unsqueeze(1) for layer in self._layers]
        read = [inputs.flatten(2)]
        for (weight, bias), _ in pairwise(zip(weights, biases, strict=True)):
            read.append(torch.baddbmm(bias, read[-1], weight.transpose(1, 2)).relu_())
        logarithms = torch.baddbmm(biases[-1], read[-1], weights[-1].transpose(1, 2)).log_softmax(2)
        places = labels.unsqueeze(2)
        losses = logarithms.gather(2, places).squeeze(2).neg_()
        error = logarithms.exp_()
        error.scatter_add_(2, places, error.new_tensor(-1.0).expand_as(places)).mul_(shares.unsqueeze(2))
        for number in reversed(range(len(weights))):
            # The error goes back through the weights of the forward pass, so it is computed before they move.
            before = torch.bmm(error, weights[number]).mul_(read[number] > 0) if number else error
            _add_gradients(stack, self._layers[number], working, error, read[number])
            error = before
        return losses


def _add_gradients(stack: Stack, layer: str, working: int, error: Tensor, read: Tensor) -> None:
    stack.move(f"{layer}.weight", working, lambda values: values.baddbmm_(error.transpose(1, 2), read, alpha=-1))
    stack.move(f"{layer}.bias", working, lambda values: values.sub_(error.sum(1)))
