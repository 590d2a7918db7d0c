"""What a forward pass keeps for the backward pass: measured once on the model itself, so exact for any module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from fedapt.cost.shapes import untouched

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SavedBytes:
    """Bytes kept for the backward pass without parameters, inputs and labels: `n * per_sample + fixed` for a batch of n.

    input_per_sample: bytes of one input and its label, which the batch holds anyway.
    """

    per_sample: int
    fixed: int
    input_per_sample: int


def saved_bytes(
    model: nn.Module, input_shape: tuple[int, ...], dtype: torch.dtype = torch.float32, loss: Loss = F.cross_entropy
) -> SavedBytes:
    """Measure what a training step of a model and a loss keeps, on zero batches of 2 and 3 samples.

    input_shape: of one sample; the output is (batch, classes, ...) with one label for each position.

    Storages are counted once, whole, however many tensors share them: a ReLU's output is also the next layer's input. It takes
    batches of 2 and 3, not 1 and 2, because batch norm refuses a batch of one. The model is left as it was, and nothing is drawn
    from the global stream.
    """
    with untouched(model), torch.enable_grad():
        model.train()
        two, _ = _kept(model, torch.zeros((2, *input_shape), dtype=dtype), loss)
        three, labels = _kept(model, torch.zeros((3, *input_shape), dtype=dtype), loss)
    sample = torch.zeros((1, *input_shape), dtype=dtype)
    return SavedBytes(three - two, two - 2 * (three - two), sample.nbytes + labels.nbytes // 3)


def _kept(model: nn.Module, batch: Tensor, loss: Loss) -> tuple[int, Tensor]:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        # The tensor itself is handed on, so that its storage stays alive and its address is not used again.
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        output = model(batch)
        labels = torch.zeros((output.shape[0], *output.shape[2:]), dtype=torch.int64)
        result = loss(output, labels)
    present = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers(), batch, labels)}
    # The graph holds the storages: it may only be forgotten after they were counted.
    total = sum(size for address, size in kept.items() if address not in present)
    del result
    return total, labels
