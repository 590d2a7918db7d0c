"""What carries a run to its clients: a Gateway for the scenario's `clock:`, around the transport that its `engine:` names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from fedapt.clock.asynchronous import Asynchronous
from fedapt.clock.synchronous import Synchronous
from fedapt.enrolment import Enrolment
from fedapt.environment import usable_cores
from fedapt.errors import SetupError
from fedapt.grid.allocator import keep_memory
from fedapt.grid.asynchronous import AsynchronousGateway
from fedapt.grid.flights import Roster
from fedapt.grid.gateway import Gateway, Transport
from fedapt.grid.inline import Inline
from fedapt.grid.ray_session import RaySession
from fedapt.grid.visit import Outcome
from fedapt.scenario import Engine, Scenario


def open_gateway(
    scenario: Scenario,
    enrolment: Enrolment,
    roster: Roster,
    transport: Transport | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    session: RaySession | None = None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Gateway:
    """Open the door to the clients: through `transport` or through Ray if they are given, else in this process.

    meanwhile: called when clients have been given to Ray's workers, and nothing is to be done but wait for them.
    """
    carried = transport or open_transport(scenario.engine, enrolment, session, meanwhile)
    given = (carried, enrolment.participants, enrolment.wishes, scenario.seed)
    named: dict[str, Any] = {
        "linear": scenario.strategy.linear,
        "corrects": scenario.strategy.corrects,
        "per_round": scenario.clients.per_round,
        "batteries": enrolment.batteries,
        "on_outcome": on_outcome,
    }
    if isinstance(scenario.clock, Asynchronous):
        return AsynchronousGateway(*given, asynchronous=scenario.clock, roster=roster, **named)
    assert isinstance(scenario.clock, Synchronous)
    return Gateway(*given, clock=scenario.clock, **named)


def begin(engine: Engine, transport: Transport | None = None) -> AbstractContextManager[RaySession | None]:
    """Begin to start what takes seconds to start, for `open_gateway`; the end of the context waits until it has ended again."""
    if engine.kind != "ray" or transport is not None:
        return nullcontext()
    if engine.workers != "auto":
        return RaySession(engine.workers, engine.address)
    return RaySession(None if engine.address else usable_cores(), engine.address)


def open_transport(
    engine: Engine, enrolment: Enrolment, session: RaySession | None = None, meanwhile: Callable[[], None] = lambda: None
) -> Transport:
    """Start what carries tasks to clients; raises SetupError if something for it is not installed."""
    keep_memory()
    workshop = replace(enrolment.workshop, device=device_of(engine))
    grouping = workshop.grouping(None if engine.batch_clients == "auto" else engine.batch_clients)
    if session is None:
        return Inline(workshop.open(), max_attempts=engine.max_attempts, grouping=grouping)
    try:
        from fedapt.grid.ray_pool import RayPool
    except ImportError as error:
        raise SetupError(
            f"engine.kind ray needs Ray ({error}): pip install 'fedapt[sim]', or set engine.kind to inline"
        ) from None
    return RayPool(
        workshop,
        None,
        threads=engine.threads,
        chunk=None if engine.chunk == "auto" else engine.chunk,
        max_attempts=engine.max_attempts,
        task_timeout_s=engine.task_timeout_s,
        grace_s=engine.grace_s,
        session=session,
        player=None if workshop.faults.crash or workshop.faults.hang else workshop.open(),
        grouping=grouping,
        meanwhile=meanwhile,
    )


def device_of(engine: Engine) -> str:
    """Return the device that batches of clients are trained on; raises SetupError if it is not there."""
    if not engine.wants_gpu:
        return "cpu"
    found = torch.cuda.is_available()
    if engine.device == "cuda" and not found:
        raise SetupError("engine.device cuda: torch sees no GPU here; set it to auto or cpu, or install a torch with CUDA")
    return "cuda" if found else "cpu"
