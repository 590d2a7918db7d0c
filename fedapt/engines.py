"""What carries a run to its clients: the transport that the scenario's `engine:` block names."""

from __future__ import annotations

from fedapt.enrolment import Enrolment
from fedapt.environment import usable_cores
from fedapt.errors import SetupError
from fedapt.grid.gateway import Transport
from fedapt.grid.inline import Inline
from fedapt.scenario import Engine


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
