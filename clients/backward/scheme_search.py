"""The search for a sparse update: which biases, layers and channels a device trains, given what it has room for.

Lin et al. (arXiv 2206.15472) measure, offline, how much accuracy each part brings by itself, and choose the parts with the
largest sum that the memory has room for, by an evolutionary search. Here the worth of a part is the squared gradient of its
weights, which is by how much a small step of it lowers the loss. The parts with the largest sum for given bytes that they keep
are a knapsack, solved for all sizes at once; the largest whose whole step, predicted as any other, fits is found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedapt.clients.backward.rule import GlobalModel
from fedapt.clients.backward.sparse_update import SparseUpdate
from fedapt.cost.shapes import LayerShape
from fedapt.cost.workload import Workloads
from fedapt.quant.ops import EmbeddingOp
from fedapt.quant.treatment import Module, Scheme
from fedapt.seeding import torch_stream

SHARES = (0.125, 0.25, 0.5, 1.0)
# Into how many units the bytes of the knapsack are divided: a part takes whole ones.
UNITS = 256
PROBES = 4
PROBE_BATCH = 32


@dataclass(frozen=True)
class Worth:
    """What parts of a model are worth, by layer. biases: with those of the norms that follow it."""

    weights: Mapping[str, float]
    biases: Mapping[str, float]


def worth_of(model: GlobalModel) -> Worth:
    """Return the squared gradients of a float model on random inputs with random labels: a task that it has not learned yet.

    The server has no samples of its clients. Normalised inputs have the mean 0 and the variance 1, so normal ones stand for them.
    """
    # In the mode of evaluation nothing is dropped at random.
    net, generator = model.build().eval(), torch_stream(model.seed, "scheme search")
    state = {name: torch.from_numpy(np.array(values)) for name, values in model.arrays.items()}
    net.load_state_dict(state, strict=False)
    weights = {module.name: 0.0 for module in model.modules if module.op is not None}
    biases = dict.fromkeys(weights, 0.0)
    for _ in range(PROBES):
        net.zero_grad()
        output = net(_probe(model, generator))
        labels = torch.randint(0, output.shape[1], (PROBE_BATCH, *output.shape[2:]), generator=generator)
        F.cross_entropy(output, labels).backward()  # type: ignore[no-untyped-call]
        above = ""
        for module in model.modules:
            above = module.name if module.op is not None else above
            for name, parameter in net.get_submodule(module.name).named_parameters(recurse=False):
                if above and parameter.grad is not None:
                    worth = weights if module.op is not None and name == "weight" else biases
                    worth[above] += float(parameter.grad.square().sum())
    return Worth(weights, biases)


def _probe(model: GlobalModel, generator: torch.Generator) -> Tensor:
    shape = (PROBE_BATCH, *model.input_shape)
    if model.vocabulary:
        return torch.randint(1, max(model.vocabulary, 2), shape, generator=generator)
    return torch.randn(shape, generator=generator)


@dataclass(frozen=True)
class Choice:
    """Parts of a model and what they are worth together. reached: how many layers before the head have a bias that trains."""

    worth: float
    reached: int
    shares: Mapping[str, float]


# Of what has no room.
NOTHING = Choice(-math.inf, 0, {})


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
        best = Choice(0.0, 0, {})
        if not fits(self._scheme(best)):
            return None
        shapes = {shape.name: shape for shape in workloads.at(workloads.begin).shapes}
        # The gradient of a whole layer may have no room where those of parts of several do, so each bound on shares is tried.
        for most in reversed(SHARES):
            better = [choice for choice in self.choices(shapes, most) if choice.worth > best.worth]
            # They are in the order of what they keep. Most bounds have nothing better to offer, as the first then shows.
            if not better or not fits(self._scheme(better[0])):
                continue
            least, beyond = 0, len(better)
            while beyond - least > 1:
                middle = (least + beyond) // 2
                least, beyond = (middle, beyond) if fits(self._scheme(better[middle])) else (least, middle)
            best = better[least]
        return self._scheme(best)

    def choices(self, shapes: Mapping[str, LayerShape], most: float = 1.0) -> list[Choice]:
        """Return the best choice for each size of a knapsack, as far as it is better than that for a smaller one.

        most: the largest share of a layer's channels.
        """
        layers = [module for module in self.modules if module.op is not None][-2::-1]
        biases, first = self._kept_by_biases(shapes), next(iter(shapes))

        def kept(layer: str, share: float) -> float:
            # What the first layer to run reads is there anyway, but a choice of its channels is a copy.
            return biases[layer] + (0 if layer == first and share == 1 else 4 * share * shapes[layer].input_elements)

        unit = max(sum(kept(layer.name, 1.0) for layer in layers), 1) / UNITS
        # With one more for each layer, whose size is rounded up, all of them have room in the largest.
        sizes = range(UNITS + len(layers) + 1)
        deep = best = [Choice(0.0, 0, {})] * len(sizes)
        for layer in layers:
            options = [(share, math.ceil(kept(layer.name, share) / unit)) for share in _shares(layer, most)]
            deep = [
                max(
                    (self._with(deep[size - units], layer.name, share) for share, units in options if units <= size),
                    key=_worth,
                    default=NOTHING,
                )
                for size in sizes
            ]
            best = [max(one, other, key=_worth) for one, other in zip(best, deep, strict=True)]
        return [choice for before, choice in pairwise(best) if choice.worth > before.worth]

    def _with(self, choice: Choice, layer: str, share: float) -> Choice:
        worth = choice.worth + self.worth.biases[layer] + share * self.worth.weights[layer]
        return Choice(worth, choice.reached + 1, {layer: share, **choice.shares} if share else choice.shares)

    def _kept_by_biases(self, shapes: Mapping[str, LayerShape]) -> dict[str, float]:
        """Return by layer what a sample keeps if its bias trains: where its output was clipped, and what norms after it read."""
        kept: dict[str, float] = {}
        above = ""
        for module in self.modules:
            if module.op is not None:
                above = module.name
                kept[above] = shapes[above].output_elements / 8
            elif above and module.name in shapes:
                kept[above] += 4 * shapes[module.name].input_elements
        return kept

    def _scheme(self, choice: Choice) -> Scheme:
        block = self.base.model_copy(update={"biases": choice.reached + 1, "weights": dict(choice.shares)})
        return Scheme(backward=self.resolve(block))


def _worth(choice: Choice) -> float:
    return choice.worth


def _shares(layer: Module, most: float) -> list[float]:
    # An embedding has no input channels, so it trains as a whole or not at all.
    return [0.0, 1.0] if isinstance(layer.op, EmbeddingOp) else [0.0, *(share for share in SHARES if share <= most)]
