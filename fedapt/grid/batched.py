"""A visit to many clients at once, trained as one batch of tensors. Bytes, reports and updates are those of single visits.

A client whose training is remarkable, since it diverged or its update is too large, is visited alone, and its outcome is of that.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedapt.admission import LARGEST_NORM
from fedapt.clients.client import Client
from fedapt.clients.instructions import TrainReport
from fedapt.clients.stacked import Stack, step_of
from fedapt.data.examples import Examples
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.groups import steps_of
from fedapt.grid.messages import Messages
from fedapt.grid.visit import Arrays, Outcome, Task

Batches = Sequence[np.ndarray]


@dataclass(frozen=True)
class _Trained:
    """What came of a group. updates: (clients, *shape) by parameter name; losses, norms: (clients,), of the update."""

    batches: Sequence[Batches]
    updates: dict[str, np.ndarray]
    losses: list[float]
    norms: list[float]


class BatchedVisits:
    """Visits groups of clients. model: an instance of the architecture; device: where groups are trained."""

    def __init__(
        self, model: nn.Module, examples: Examples, client_of: Callable[[int], Client], messages: Messages, device: str
    ) -> None:
        self._step, self._examples = step_of(model.to(device)), _OnDevice(examples, device)
        self._client_of, self._messages, self._device = client_of, messages, device

    def visit(
        self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None, alone: Callable[[Task], Outcome]
    ) -> Iterator[Outcome]:
        """Yield the outcome of each task of a group, in order; alone: plays one on its own."""
        order = sorted(range(len(tasks)), key=lambda place: -steps_of(tasks[place]))
        tasks = [tasks[place] for place in order]
        trained = self._train(arrays, tasks)
        samples = [task.instructions.seen(task.samples) for task in tasks]
        fine = ~ExactSum.too_large(trained.updates, samples)
        for place, (task, loss, norm) in enumerate(zip(tasks, trained.losses, trained.norms, strict=True)):
            # What one visit alone admits or not is left to it, also where only the last bits would decide.
            most = LARGEST_NORM if task.admission.max_norm is None else min(task.admission.max_norm, LARGEST_NORM)
            fine[place] &= math.isfinite(loss) and norm < 0.999 * most
        if total is not None and fine.any():
            updates = trained.updates if fine.all() else {name: values[fine] for name, values in trained.updates.items()}
            total.add_stacked(updates, [weight for weight, is_fine in zip(samples, fine, strict=True) if is_fine])
        outcomes = {
            order[place]: self._outcome(task, trained, place, total is None) if fine[place] else alone(task)
            for place, task in enumerate(tasks)
        }
        for place in range(len(tasks)):
            yield outcomes[place]

    def _train(self, arrays: Arrays, tasks: Sequence[Task]) -> _Trained:
        """Train the clients, of which those with the most steps come first."""
        batches = [self._client_of(task.client).batches(task.instructions) for task in tasks]
        stack = self._stack(arrays, tasks)
        losses = torch.zeros(len(tasks), device=self._device)
        lr = np.array([task.instructions.lr for task in tasks], np.float32)
        # Convolutions at full precision, and the same bits each time.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for step in range(len(batches[0])):
                here = [one[step] for one in batches if step < len(one)]
                rows, parts = _together(here)
                counts = torch.from_numpy(parts).to(self._device)
                shares = torch.from_numpy(parts * lr[: len(here), None]).to(self._device)
                each = self._step(stack, *self._examples.batch(rows), shares)
                losses[: len(here)] += each.mul_(counts).sum(1)
            updates = {name: values.sub_(stack.starts[name]) for name, values in stack.values.items()}
            norms = torch.stack([torch.linalg.vector_norm(values.flatten(1), dim=1) for values in updates.values()]).norm(dim=0)
        means = [loss / len(one) for loss, one in zip(losses.tolist(), batches, strict=True)]
        return _Trained(batches, {name: values.cpu().numpy() for name, values in updates.items()}, means, norms.tolist())

    def _stack(self, arrays: Arrays, tasks: Sequence[Task]) -> Stack:
        starts = {name: torch.from_numpy(np.array(values)).to(self._device) for name, values in arrays.items()}
        corrections: dict[str, Tensor] = {}
        if tasks[0].correction is not None:
            each = [task.correction or {} for task in tasks]
            corrections = {name: torch.from_numpy(np.stack([one[name] for one in each])).to(self._device) for name in arrays}
        return Stack(
            {name: values.expand(len(tasks), *values.shape).clone() for name, values in starts.items()},
            starts,
            torch.tensor([task.instructions.lr for task in tasks], device=self._device),
            tasks[0].instructions.proximal_mu,
            corrections,
        )

    def _outcome(self, task: Task, trained: _Trained, place: int, with_update: bool) -> Outcome:
        told = task.instructions
        down, up = self._messages.of_task(task, corrected=task.correction is not None)
        update = {name: values[place] for name, values in trained.updates.items()}
        return Outcome(
            task.client,
            "ok",
            report=TrainReport(
                samples=told.seen(task.samples),
                batches=dict(Counter(map(len, trained.batches[place]))),
                train_loss=trained.losses[place],
                layers={},
            ),
            downlink_bytes=down,
            uplink_bytes=up,
            zero_update=not trained.norms[place] and not any(values.any() for values in update.values()),
            update=update if with_update else None,
            kept={},
            batched_clients=len(trained.batches),
        )


def _together(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """Return one batch of each client as rows (clients, size), short ones filled up, and what each counts for in the mean."""
    sizes = np.array([len(one) for one in batches])
    size = int(sizes.max())
    rows = np.stack([one if len(one) == size else np.resize(one, size) for one in batches])
    return rows, np.where(np.arange(size) < sizes[:, None], np.float32(1) / sizes[:, None], 0).astype(np.float32)


class _OnDevice:
    """Examples that stay on a device, normalised a batch at a time; on the CPU they are not copied."""

    def __init__(self, examples: Examples, device: str) -> None:
        with warnings.catch_warnings():
            # They may be read-only, and nothing is written to them.
            warnings.simplefilter("ignore", UserWarning)
            self._inputs, self._labels = (torch.from_numpy(part).to(device) for part in (examples.inputs, examples.labels))
        scale = 255.0 if examples.inputs.dtype == np.uint8 else 1.0
        channels = (-1,) + (1,) * (examples.inputs.ndim - 2)
        self._mean, self._factor = (
            torch.from_numpy(part.astype(np.float32).reshape(channels)).to(device)
            for part in (scale * examples.mean.astype(np.float64), 1 / (scale * examples.std.astype(np.float64)))
        )

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return inputs (*rows.shape, *shape) float32 and labels, of the shape of `rows`."""
        places = torch.from_numpy(rows).to(self._inputs.device)
        inputs = self._inputs.index_select(0, places.flatten()).to(torch.float32).sub_(self._mean).mul_(self._factor)
        return inputs.view(*rows.shape, *inputs.shape[1:]), self._labels[places]
