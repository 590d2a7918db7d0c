"""A client's work as a bare loop: what the floor and Flower's client do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.engine.workloads import Workload


def train(model: nn.Module, parameters: list[Tensor], workload: Workload, inputs: Tensor, labels: Tensor) -> None:
    """Take the steps of a round in place, by plain SGD. parameters: the model's, as a list made once."""
    for _ in range(workload.epochs):
        for images, truth in zip(torch.split(inputs, workload.batch), torch.split(labels, workload.batch), strict=True):
            gradients = torch.autograd.grad(F.cross_entropy(model(images), truth), parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, list(gradients), alpha=-workload.lr)
