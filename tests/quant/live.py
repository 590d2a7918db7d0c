"""Which floating tensors are alive: those that Python can reach, and every storage that torch has made."""

import gc
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def walk(least: int, known: Iterable[Tensor] = ()) -> list[Tensor]:
    """Return all floating tensors in Python's reach, and their gradients, whose storage holds `least` float32 numbers or more."""
    gc.collect()
    ids = {id(tensor) for tensor in known}
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor) and id(thing) not in ids]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    return [tensor for tensor in tensors if tensor.is_floating_point() and tensor.untyped_storage().nbytes() >= 4 * least]


class Storages(TorchDispatchMode):
    """Follows every floating storage of `least` float32 numbers or more that is made inside, whoever holds it: Python or C++."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self._least, self._made = least, {}
        self.most_sizes = 0
        self.most_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                storage = tensor.untyped_storage()
                if storage.nbytes() >= 4 * self._least:
                    # A weak reference keeps the address from being used again, so it names the storage.
                    reference = StorageWeakRef(storage)
                    self._made.setdefault(reference.cdata, (reference, storage.nbytes() // 4))
        alive = self.alive()
        self.most_sizes = max(self.most_sizes, len(set(alive)))
        self.most_bytes = max(self.most_bytes, 4 * sum(alive))
        return result

    def alive(self) -> list[int]:
        """Return how many float32 numbers each of them holds that is alive now."""
        self._made = {address: made for address, made in self._made.items() if not made[0].expired()}
        return sorted(size for _, size in self._made.values())


def tensors_now() -> list[Tensor]:
    """Return every tensor that is alive already: of other tests."""
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
