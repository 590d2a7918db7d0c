"""Pretraining: weights that the server begins with, from a central training before round 0 or from a file.

A client is charged for nothing of it. The training is plain SGD with momentum in fp32, on samples that nobody owns but that are
normalised as the clients' are. Its loss is over the classes that there are samples of: the head's rows for all others stay as
they are, instead of learning never to be the answer. The result is a function of the scenario's seed, the data, torch and
`engine.threads`; whoever needs it again, such as the next cell of a bench, finds it in the cache.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, ValidationError, model_validator

from fedapt import __version__
from fedapt.cost.stopwatch import threads
from fedapt.data import DataSpec, Federation, Pool, pool
from fedapt.data.cache import alone, cached, digest
from fedapt.data.cache import kept as in_cache
from fedapt.data.spec import AnyClasses, Columns, Size
from fedapt.errors import DamagedData, FedaptError, RunFailed
from fedapt.evaluation import Evaluator
from fedapt.models import build
from fedapt.models import model as models
from fedapt.options import Options
from fedapt.pretrained import Arrays, Origin, Pretrained, kept, unpack, weights_of
from fedapt.quant.skeleton import float_arrays
from fedapt.seeding import numpy_stream, torchs_own_stream

if TYPE_CHECKING:
    from fedapt.scenario import Scenario

NAME = "pretrained"
TRIAL_BATCHES = 4

# How many epochs are done, of how many, and the mean loss of the last whole one.
Progress = Callable[[float, int, float | None], None]


class On(Options):
    """The samples of a pretraining; a key that is null is as in the scenario's `data`, or its default with another source."""

    source: str | None = Field(default=None, description="as data.source; null: the same data")
    classes: AnyClasses | None = Field(default=None, description="as data.classes")
    samples: Size | None = Field(default=None, description="as data.samples")
    test: str | None = Field(default=None, description="as data.test")
    test_samples: Size | None = Field(default=None, description="as data.test_samples")
    columns: Columns | None = Field(default=None, description="as data.columns")
    shape: Annotated[list[Size], Field(min_length=1, max_length=3)] | None = Field(default=None, description="as data.shape")

    def over(self, data: DataSpec) -> DataSpec:
        """Return these options where they are given, else those of the clients' data; raises ValueError if they contradict."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        usual = dict(DataSpec.model_validate({}))
        same = self.source in (None, data.source)
        base = dict(data) | {"partition": usual["partition"]} if same else usual | {"tokens": data.tokens}
        try:
            return DataSpec.model_validate(base | given)
        except ValidationError as error:
            raise ValueError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from None


class Pretraining(Options):
    """What the global model has learned before the first round, on the server."""

    file: str | None = Field(
        default=None,
        description="weights by name, as safetensors; tensors of another shape stay as the model has them; null: train",
    )
    on: On = Field(default_factory=On, description="what the server trains on")
    epochs: int = Field(default=5, ge=1, le=10**4, description="passes over those samples")
    batch: int = Field(default=64, ge=1, description="samples in a step")
    lr: float = Field(default=0.05, gt=0, description="learning rate")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        usual = Pretraining.model_construct()
        given = [name for name in ("on", "epochs", "batch", "lr", "momentum") if getattr(self, name) != getattr(usual, name)]
        if self.file is not None and given:
            raise ValueError(f"`{given[0]}` is for a training, but the weights are read from `file`; leave one of the two out")
        return self


def pretrained(scenario: Scenario, federation: Federation, model: Arrays, run: Path, progress: Progress) -> Pretrained:
    """Return what the global model begins with, and keep it in the run's folder; a run that goes on finds it there.

    model: the model's own first weights. Raises SetupError, DamagedData, ScenarioError or RunFailed.
    """
    assert scenario.pretrain is not None
    try:
        if found := kept(run):
            return found
    except DamagedData:
        # A training gives the same bits again; a file may have changed since.
        if scenario.pretrain.file is not None:
            raise
    if scenario.pretrain.file is not None:
        weights = weights_of(Path(scenario.pretrain.file))
    else:
        weights = Training(scenario, federation).result(progress)
    begun = weights.into(model)
    begun.write(run)
    return begun


def seconds_left(scenario: Scenario, federation: Federation) -> float:
    """Return how long the pretraining of a scenario will take here, 0 if it is done, from a few steps; raises what it would."""
    assert scenario.pretrain is not None
    if scenario.pretrain.file is not None:
        model = build(scenario.model, federation.data_shape, scenario.seed)
        weights_of(Path(scenario.pretrain.file)).into({name: one.numpy() for name, one in float_arrays(model).items()})
        return 0.0
    training = Training(scenario, federation)
    return 0.0 if training.done else training.estimate_s()


class Training:
    """The training of one scenario's model on the server."""

    def __init__(self, scenario: Scenario, federation: Federation) -> None:
        assert scenario.pretrain is not None
        self._options, self._scenario = scenario.pretrain, scenario
        self._spec = self._options.on.over(scenario.data)
        try:
            self._pool: Pool = pool(self._spec, federation, scenario.seed)
        except FedaptError as error:
            raise type(error)(f"pretrain.on: {error}") from None
        self._present = torch.from_numpy(np.unique(self._pool.train.labels))

    @property
    def done(self) -> bool:
        """Whether the result is in the cache."""
        return in_cache(NAME, self._key) is not None

    def result(self, progress: Progress) -> Pretrained:
        """Return the trained model; raises RunFailed if the loss leaves the finite numbers."""
        with alone(NAME, self._key):
            packed = cached(NAME, self._key, lambda: np.frombuffer(self._train(progress).packed(), np.uint8))
        return unpack(packed.tobytes(), "the cache's pretrained model")

    def estimate_s(self) -> float:
        """Return how long the training would take."""
        with threads(self._scenario.engine.threads), torchs_own_stream(0, "pretrain.trial"):
            steps, ended = self._steps(self._model()), []
            for _ in islice(steps, 1 + TRIAL_BATCHES):
                ended.append(time.perf_counter())
        step_s = (ended[-1] - ended[0]) / max(len(ended) - 1, 1)
        return step_s * self._options.epochs * self._batches

    def _train(self, progress: Progress) -> Pretrained:
        scenario, epochs, loss = self._scenario, self._options.epochs, None
        model, total = self._model(), 0.0
        progress(0, epochs, None)
        with threads(scenario.engine.threads), torchs_own_stream(scenario.seed, "pretrain.dropout"):
            for number, (step_loss, count) in enumerate(self._steps(model), start=1):
                total += step_loss * count
                epoch, batch = divmod(number, self._batches)
                if batch == 0:
                    loss, total = total / len(self._pool.train.labels), 0.0
                    if not np.isfinite(loss):
                        raise RunFailed(f"pretrain: after epoch {epoch} the loss is {loss}; lower pretrain.lr.")
                progress(number / self._batches, epochs, loss)
        arrays = {name: values.numpy() for name, values in float_arrays(model).items()}
        return Pretrained(arrays, self._origin(loss, arrays))

    def _steps(self, model: torch.nn.Module) -> Iterator[tuple[float, int]]:
        """Train batch by batch; yield each one's mean loss and size."""
        options, train = self._options, self._pool.train
        optimiser = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=options.momentum)
        for epoch in range(options.epochs):
            order = numpy_stream(self._scenario.seed, "pretrain.order", epoch).permutation(len(train.labels))
            for first in range(0, len(order), options.batch):
                inputs, labels = train.batch(order[first : first + options.batch])
                optimiser.zero_grad()
                loss = F.cross_entropy(model(inputs)[:, self._present], torch.searchsorted(self._present, labels))
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                yield loss.item(), len(labels)

    def _model(self) -> torch.nn.Module:
        return build(self._scenario.model, self._pool.data_shape, self._scenario.seed).train()

    @property
    def _batches(self) -> int:
        return -(-len(self._pool.train.labels) // self._options.batch)

    def _origin(self, loss: float | None, arrays: Arrays) -> Origin:
        shape, threads_ = self._pool.data_shape, self._scenario.engine.threads
        score = Evaluator(self._scenario.model, self._pool.test, shape.classes, threads_).score(arrays)
        return Origin(
            source=Path(self._spec.source).name,
            classes=len(self._present),
            samples=len(self._pool.train.labels),
            epochs=self._options.epochs,
            loss=loss,
            accuracy=score.accuracy,
        )

    @cached_property
    def _key(self) -> str:
        """The digest of everything that the result depends on."""
        pool, scenario = self._pool, self._scenario
        code = [__file__, models.__file__, sys.modules[type(scenario.model).__module__].__file__]
        sets: list[Any] = [array for part in (pool.train, pool.test) for array in (part.inputs, part.labels)]
        return digest(
            *(Path(str(path)).read_bytes() for path in code),
            f"{__version__} {torch.__version__} {np.__version__} {torch.backends.cpu.get_cpu_capability()}",
            f"{scenario.seed} {scenario.engine.threads} {scenario.model.model_dump_json()}",
            f"{self._options.model_dump_json()} {Path(self._spec.source).name} {pool.data_shape}",
            *sets,
            pool.train.mean,
            pool.train.std,
        )
