"""The floor: the same local steps and the mean in a bare torch loop, one process a core, one thread each, and nothing else.

Model and sum are shared memory; a round is one byte to each process and one back.
"""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

import torch
from torch import Tensor, nn

from bench.engine.local import train
from bench.engine.work import Played, Work


def play(work: Work, workers: int) -> Played:
    """Play all rounds."""
    torch.set_num_threads(1)
    model = work.net()
    shared = _shared(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    sums = _shared(torch.zeros(workers, len(shared)))
    # What the workers read is loaded before they are forked from this process.
    assert len(work.orders) and len(work.labels)
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(workers)]
    helpers = [
        context.Process(target=_work, args=(work, shared, sums, number, pipe[1]), daemon=True)
        for number, pipe in enumerate(pipes)
    ]
    for helper in helpers:
        helper.start()
    ends_s = []
    for number in range(work.workload.rounds):
        for mine, _ in pipes:
            mine.send(number)
        for mine, _ in pipes:
            mine.recv()
        shared.copy_(sums.sum(0).div_(work.workload.cohort))
        ends_s.append(time.monotonic())
    for mine, _ in pipes:
        mine.send(None)
    for helper in helpers:
        helper.join()
    nn.utils.vector_to_parameters(shared, model.parameters())
    return Played(ends_s, {name: values.detach().numpy() for name, values in model.named_parameters()}, {})


def _shared(values: Tensor) -> Tensor:
    moved: Tensor = values.share_memory_()  # type: ignore[no-untyped-call]
    return moved


def _work(work: Work, shared: Tensor, sums: Tensor, number: int, pipe: Connection) -> None:
    """Play every so many-th client of each round, and leave the sum of their weights."""
    torch.set_num_threads(1)
    model, flat = work.net(), shared.clone()
    parameters: list[Tensor] = list(model.parameters())
    # The parameters are views of one buffer: a client starts with one copy, and ends with one addition.
    for parameter, values in zip(parameters, torch.split(flat, [one.numel() for one in parameters]), strict=True):
        parameter.data = values.view_as(parameter)
    own = sums[number]
    while (round := pipe.recv()) is not None:
        own.zero_()
        for place in range(number, work.workload.cohort, len(sums)):
            flat.copy_(shared)
            train(model, parameters, work.workload, *work.data(round, place))
            own.add_(flat)
        pipe.send(None)
