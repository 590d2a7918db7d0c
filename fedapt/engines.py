"""What carries a run to its clients: a Gateway for the scenario's `clock:`, around the transport that its `engine:` names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedapt.clock.asynchronous import Asynchronous
from fedapt.clock.synchronous import Synchronous
from fedapt.enrolment import Enrolment
from fedapt.environment import usable_cores
from fedapt.errors import SetupError
from fedapt.grid.asynchronous import AsynchronousGateway
from fedapt.grid.flights import Roster
from fedapt.grid.gateway import Gateway, Transport
from fedapt.grid.inline import Inline
from fedapt.grid.visit import Outcome
from fedapt.scenario import Engine, Scenario


def open_gateway(
    scenario: Scenario,
    enrolment: Enrolment,
    roster: Roster,
    transport: Transport | None = None,
    on_outcome: Callable[[Outcome], None] = lambda outcome: None,
) -> Gateway:
    """Open the door to the clients; with `transport`, through it and not through what the scenario's engine names."""
    carried = transport or open_transport(scenario.engine, enrolment)
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


def open_transport(engine: Engine, enrolment: Enrolment) -> Transport:
    """Start what carries tasks to clients; raises SetupError if something for it is not installed."""
    if engine.kind == "inline":
        return Inline(enrolment.workshop.open(), max_attempts=engine.max_attempts)
    try:
        from fedapt.grid.ray_pool import RayPool
    except ImportError as error:
        raise SetupError(
            f"engine.kind ray needs Ray ({error}): pip install 'fedapt[sim]', or set engine.kind to inline"
        ) from None
    workers = usable_cores() if engine.workers == "auto" else engine.workers
    return RayPool(
        enrolment.workshop,
        workers,
        threads=engine.threads,
        chunk=None if engine.chunk == "auto" else engine.chunk,
        max_attempts=engine.max_attempts,
        task_timeout_s=engine.task_timeout_s,
        grace_s=engine.grace_s,
    )
