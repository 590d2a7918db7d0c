"""The search for a sparse update: which biases, layers and channels a device trains, given what it has room for.

Lin et al. (arXiv 2206.15472) measure, offline, how much accuracy each part brings by itself, and choose the parts with the
largest sum that the memory has room for, by an evolutionary search. Here the worth of a part is the squared gradient of its
weights, which is by how much a small step of it lowers the loss, and the search is greedy: of all parts that are left the one
with the most worth for each byte that it keeps, as long as a whole step, predicted as any other, fits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedapt.clients.backward.rule import GlobalModel
from fedapt.clients.backward.sparse_update import SparseUpdate, channels_of, squares_of
from fedapt.cost.workload import Workloads
from fedapt.quant.ops import EmbeddingOp
from fedapt.quant.treatment import Module, Scheme
from fedapt.seeding import torch_stream

# A layer and a share of its input channels; 0 is its bias alone.
Part = tuple[str, float]
Parts = Sequence[Part]
SHARES = (0.125, 0.25, 0.5, 1.0)
PROBES = 4
PROBE_BATCH = 32
# Parts that are tried beyond the first that has no room; each is measured on a real step of the model.
MOST_TRIES = 4


@dataclass(frozen=True)
class Worth:
    """What parts of a model are worth, by layer. weights: (channels,) float64, as `channels_of` counts them; biases: of all."""

    weights: Mapping[str, np.ndarray]
    biases: Mapping[str, float]


def worth_of(model: GlobalModel) -> Worth:
    """Return the squared gradients of a float model on random inputs with random labels: a task that it has not learned yet.

    The server has no samples of its clients. Normalised inputs have the mean 0 and the variance 1, so normal ones stand for them.
    """
    net, generator = model.build(), torch_stream(model.seed, "scheme search")
    state = {name: torch.from_numpy(np.array(values)) for name, values in model.arrays.items()}
    net.load_state_dict(state, strict=False)
    layers = [module for module in model.modules if module.op is not None]
    weights = {layer.name: np.zeros(channels_of(layer)) for layer in layers}
    biases = dict.fromkeys(weights, 0.0)
    for _ in range(PROBES):
        net.zero_grad()
        output = net(_probe(model, generator))
        labels = torch.randint(0, output.shape[1], (PROBE_BATCH, *output.shape[2:]), generator=generator)
        F.cross_entropy(output, labels).backward()  # type: ignore[no-untyped-call]
        for layer in layers:
            module: Any = net.get_submodule(layer.name)
            if module.weight.grad is not None:
                weights[layer.name] += squares_of(layer, module.weight.grad.numpy())
            if layer.has_bias and module.bias.grad is not None:
                biases[layer.name] += float(module.bias.grad.square().sum())
    return Worth(weights, biases)


def _probe(model: GlobalModel, generator: torch.Generator) -> Tensor:
    shape = (PROBE_BATCH, *model.input_shape)
    if model.vocabulary:
        return torch.randint(1, max(model.vocabulary, 2), shape, generator=generator)
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True, eq=False)
class SparseSearch:
    """Searches a scheme for each device class, once.

    base: the block whose other options hold; modules: of the model; weigh: finds what they are worth; resolve: chooses channels.
    """

    base: SparseUpdate
    modules: Sequence[Module]
    weigh: Callable[[], Worth]
    resolve: Callable[[SparseUpdate], SparseUpdate]
    _found: dict[Hashable, Scheme | None] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def worth(self) -> Worth:
        """What the parts of the model are worth."""
        return self.weigh()

    def __call__(self, workloads: Workloads, device: Hashable, fits: Callable[[Scheme], bool]) -> Scheme | None:
        """Return the best scheme found that fits; as `Lender`."""
        key = (device, workloads.proximal)
        if key not in self._found:
            self._found[key] = self._search(workloads, fits)
        return self._found[key]

    def _search(self, workloads: Workloads, fits: Callable[[Scheme], bool]) -> Scheme | None:
        inputs = {shape.name: shape.input_elements for shape in workloads.at(workloads.begin).shapes}
        if not fits(self._scheme([])):
            return None
        # A layer that takes all the room leaves none for others, so each bound on its share is tried.
        found = [self._filled(list(self._greedy(inputs, most)), fits) for most in SHARES]
        return self._scheme(max(found, key=self._total))

    def _filled(self, steps: Parts, fits: Callable[[Scheme], bool]) -> Parts:
        """Return as many of the steps as fit, in their order, and then of the later ones those that fit as well."""
        # The parts are nested, so a step needs the more memory the more of them it has.
        least, most = 0, len(steps)
        while least < most:
            middle = (least + most + 1) // 2
            least, most = (middle, most) if fits(self._scheme(steps[:middle])) else (least, middle - 1)
        taken, tries = steps[:least], 0
        for part in steps[least + 1 :]:
            if tries < MOST_TRIES and self._follows(part, taken):
                tries += 1
                taken = [*taken, part] if fits(self._scheme([*taken, part])) else taken
        return taken

    def _total(self, parts: Parts) -> float:
        shares = {name: max(share for other, share in parts if other == name) for name, _ in parts}
        layers = {module.name: module for module in self.modules}
        return sum(self._value(layers[name], share) for name, share in shares.items())

    def _greedy(self, inputs: Mapping[str, int], most: float) -> Iterator[Part]:
        """Yield parts by their worth for a byte: a layer with a share of its channels; the share 0 is that of its bias alone.

        most: the largest share of a layer's channels.
        """
        layers = [module for module in self.modules if module.op is not None][:-1]
        at, reached = dict.fromkeys((layer.name for layer in layers), -1.0), len(layers)
        while True:
            options = []
            for place, layer in enumerate(layers):
                share = next((share for share in (0.0, *SHARES) if at[layer.name] < share <= most), None)
                if isinstance(layer.op, EmbeddingOp):
                    share = 1.0 if at[layer.name] < 1 else None
                if share is None or (share == 0 and place != reached - 1) or (share and place < reached):
                    continue
                gain = self._value(layer, share) - self._value(layer, at[layer.name])
                # A float for each input that is kept; of a bias, the bits that say where an output was clipped.
                kept = max(share - max(at[layer.name], 0.0), 0.0) * 4 * inputs[layer.name] or inputs[layer.name] / 8
                options.append((gain / kept, place, share))
            if not options:
                return
            _, place, share = max(options)
            at[layers[place].name] = share
            reached = min(reached, place)
            yield layers[place].name, share

    def _value(self, layer: Module, share: float) -> float:
        """Return the worth of the bias and of the best channels of a layer."""
        if share < 0:
            return 0.0
        channels = np.sort(self.worth.weights[layer.name])[::-1]
        return self.worth.biases[layer.name] + float(channels[: math.ceil(share * len(channels))].sum())

    def _follows(self, part: Part, taken: Parts) -> bool:
        """Return whether a part may come next: biases one after the other from the head, weights where the bias trains."""
        names = [module.name for module in self.modules if module.op is not None]
        reached = min((names.index(name) for name, _ in taken), default=len(names) - 1)
        place = names.index(part[0])
        return place == reached - 1 if part[1] == 0 else place >= reached

    def _scheme(self, parts: Parts) -> Scheme:
        names = [module.name for module in self.modules if module.op is not None]
        lowest = min((names.index(name) for name, _ in parts), default=len(names) - 1)
        shares = {name: max(share for other, share in parts if other == name) for name in names if name in dict(parts)}
        weights = {name: share for name, share in shares.items() if share}
        block = self.base.model_copy(update={"biases": len(names) - lowest, "weights": weights})
        return Scheme(backward=self.resolve(block))
