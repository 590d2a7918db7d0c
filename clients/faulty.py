"""Faults that a scenario asks for: clients that drop out, crash, hang, raise, answer with NaN, lie, or are slow.

They are a Flower mod around the client's training, so every transport has them. Each one is drawn from its own stream, keyed by
its name, the round and the client, so a run with faults is as repeatable as one without, and adding one fault moves no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated

from flwr.app import Context, Message
from flwr.clientapp.typing import ClientAppCallable, Mod
from pydantic import ConfigDict, Field

from fedapt.clients.app import answer, payload
from fedapt.clients.client import Client
from fedapt.clients.instructions import read_instructions
from fedapt.clients.link import sent_from
from fedapt.clients.malicious import turned
from fedapt.cost.profiles import Profile, Rate
from fedapt.errors import FedaptError
from fedapt.options import Options
from fedapt.quant.weight import FloatWeight
from fedapt.quant.wire import QuantisedModel, from_bytes, to_bytes
from fedapt.seeding import numpy_stream

Chance = Annotated[float, Field(ge=0, le=1)]
DEVICE_RATES = ("fp32_macs_per_s", "memory_bytes_per_s", "uplink_bytes_per_s", "downlink_bytes_per_s")


class Scale(Options):
    """Clients that send their update multiplied by a factor."""

    share: Chance = Field(description="chance that a client is one of them, for the whole run")
    factor: float = Field(
        ge=-1e6, le=1e6, description="what they multiply their update by, below 0 turns it round; codes are clipped to the grid"
    )


class Slow(Options):
    """Clients whose device is slower than its profile says."""

    share: Chance = Field(description="chance that a client is one of them, for the whole run")
    factor: float = Field(ge=1, le=1e6, description="how many times longer they take, to compute and to send")


class Faults(Options):
    """What goes wrong on purpose. Chances are of each client in each round it trains in, unless they say otherwise."""

    model_config = ConfigDict(serialize_by_alias=True)

    drop: Chance = Field(default=0.0, description="chance that a client never answers; the model was sent to it")
    crash: Chance = Field(default=0.0, description="chance that a client kills its worker process, the first time it is tried")
    hang: Chance = Field(default=0.0, description="chance that a client hangs until engine.task_timeout_s, the first time")
    error: Chance = Field(default=0.0, alias="raise", description="chance that a client's code raises an exception")
    nan: Chance = Field(default=0.0, description="chance that a client answers with a NaN in its update")
    sign_flip: Chance = Field(default=0.0, description="chance that a client sends its update turned round, in the whole run")
    scale: Scale | None = Field(default=None, description="clients that send their update multiplied")
    slow: Slow | None = Field(default=None, description="clients that take longer, in the cost model's time")

    @property
    def touch_training(self) -> bool:
        """Whether anything can happen to a client's training."""
        return bool(self.drop or self.crash or self.hang or self.error or self.nan or self.sign_flip or self.scale)

    def slowdown(self, seed: int, client: int) -> float:
        """Return how many times longer than its profile says this client's device takes."""
        return self.slow.factor if self.slow and drawn(self.slow.share, seed, "slow", client) else 1.0

    def update_factor(self, seed: int, client: int) -> float:
        """Return what a client multiplies its update by; 1 for an honest one."""
        factor = -1.0 if drawn(self.sign_flip, seed, "sign_flip", client) else 1.0
        return factor * self.scale.factor if self.scale and drawn(self.scale.share, seed, "scale", client) else factor


class Dropped(FedaptError):
    """The client never answered."""


class InjectedError(Exception):
    """What a client's code raises because the scenario says so."""


class Accident(BaseException):
    """What a client does to its worker; no Exception, so that nothing but a transport stops it, each in its own way."""


class Crash(Accident):
    """The worker process dies at once."""


class Hang(Accident):
    """The worker process never comes back."""


def drawn(chance: float, seed: int, fault: str, *indices: int) -> bool:
    """Return whether a fault happens."""
    return bool(chance and numpy_stream(seed, f"faults:{fault}", *indices).random() < chance)


def faulty(faults: Faults, client_of: Callable[[Context], Client]) -> Mod:
    """Return a mod that lets faults happen to the training of whichever client a message is for."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if not faults.touch_training:
            return call_next(message, context)
        start, header = from_bytes(payload(message), reader="client")
        told = read_instructions(header)
        here = (told.round, told.client)
        if context.node_config.get("attempt", 1) == 1:
            if drawn(faults.crash, told.seed, "crash", *here):
                raise Crash("its worker crashed (faults.crash)")
            if drawn(faults.hang, told.seed, "hang", *here):
                raise Hang("its worker hung (faults.hang)")
        if drawn(faults.drop, told.seed, "drop", *here):
            raise Dropped("it dropped out (faults.drop)")
        if drawn(faults.error, told.seed, "raise", *here):
            raise InjectedError("the scenario asks for it (faults.raise)")
        reply = call_next(message, context)
        factor, spoil = faults.update_factor(told.seed, told.client), drawn(faults.nan, told.seed, "nan", *here)
        if factor == 1 and not spoil:
            return reply
        end, header = from_bytes(payload(reply))
        start = part.of(start) if (part := client_of(context).skeleton.part) else start
        origin = replace(start, weights=sent_from(start.weights, told.link))
        changed = end if factor == 1 else turned(origin, end, factor)
        return answer(message, to_bytes(_spoilt(changed) if spoil else changed, header))

    return mod


def slowed(profile: Profile, factor: float) -> Profile:
    """Return the profile of a device that takes `factor` times longer for everything, at the same energy."""
    if factor == 1:
        return profile
    rates = {name: getattr(profile, name) for name in DEVICE_RATES}
    update: dict[str, object] = {name: Rate(value=rate.value / factor, source=rate.source) for name, rate in rates.items()}
    if profile.calibration is not None:
        update["calibration"] = profile.calibration.slower(factor)
    return profile.model_copy(update=update)


def _spoilt(model: QuantisedModel) -> QuantisedModel:
    """Return the model with one NaN, in place: in a float parameter, or in a scale if it has none."""
    coded = [weight.values if isinstance(weight, FloatWeight) else weight.grid.scale for weight in model.weights.values()]
    next(iter([*model.floats.values(), *coded])).view(-1)[0] = float("nan")
    return model
