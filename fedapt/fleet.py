"""The `clients:` block of a scenario: who takes part, on which devices, within which limits, and how they train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedapt.clients.backward import RULES
from fedapt.clients.backward.rule import Backward
from fedapt.clients.continual import METHODS
from fedapt.clients.continual.memory import Continual
from fedapt.clients.link import Link
from fedapt.clients.precision import POLICIES
from fedapt.clients.precision.policy import Policy
from fedapt.clients.samples import FILTERS
from fedapt.clients.samples.filter import Filter
from fedapt.cost import profiles
from fedapt.options import Bytes, Joules, Options
from fedapt.quant import FLOAT_BITS, HIGHEST_BITS, LOWEST_BITS
from fedapt.reading.explain import suggest
from fedapt.reading.one_of import OneOf
from fedapt.selection import AVAILABILITIES, SELECTORS
from fedapt.selection.availability import Availability
from fedapt.selection.daily import Daily
from fedapt.selection.selection import Selection

Share = Annotated[float, Field(ge=0, le=1)]
YAML_SUFFIXES = (".yaml", ".yml")


class Local(Options):
    """What a client does in a round."""

    epochs: int = Field(default=1, ge=0, le=10**4, description="passes over the client's samples in a round")
    batch: int = Field(default=32, ge=1, le=10**9, description="samples in a step")
    lr: float = Field(default=0.05, gt=0, description="learning rate")


Width = Annotated[int, Field(ge=LOWEST_BITS, le=HIGHEST_BITS)] | Literal[32]


class Method(Options):
    """How a client trains: one of each of the four parts of an on-device method."""

    precision: Annotated[Policy, OneOf(POLICIES)] = Field(
        default="budget", validate_default=True, description="how weights are stored and how their bits adapt"
    )
    backward: Annotated[Backward, OneOf(RULES)] = Field(
        default="exact", validate_default=True, description="how gradients are computed"
    )
    samples: Annotated[Filter, OneOf(FILTERS)] = Field(
        default="all", validate_default=True, description="which samples are worth training on"
    )
    continual: Annotated[Continual, OneOf(METHODS)] = Field(
        default="none", validate_default=True, description="what keeps old tasks alive"
    )
    link: Link = Field(default_factory=Link, description="how models and updates cross the network")
    activations: Width = Field(default=FLOAT_BITS, description="width of what a layer takes in and keeps for the backward pass")
    errors: Width = Field(default=FLOAT_BITS, description="width of the errors that come back to a layer, rounded stochastically")


class Limits(Options):
    """What fedapt may use of a device; null means as much as the device has."""

    memory: Bytes | None = Field(default=None, description="memory that training may use, for example `24 MiB`")
    energy: Joules | None = Field(default=None, description="energy that a round may use, for example `2 J`")
    battery: Joules | None = Field(
        default=None, description="capacity of the battery, for example `10 Wh`; null: the profile's, or the mains"
    )


class Group(Options):
    """Clients of one kind: the same device, budget and method."""

    profile: str = Field(description="device profile: the name of one in clients/profiles, or the path of a .yaml")
    name: str | None = Field(
        default=None, min_length=1, description="what reports call the group; the profile's name unless given"
    )
    share: float | None = Field(default=None, gt=0, le=1, description="share of the clients; given for all groups or for none")
    budget: Limits = Field(default_factory=Limits, description="what of the device may be used")
    local: Local = Field(default_factory=Local, description="differs from clients.local in the keys given here")
    method: Method = Field(default_factory=Method, description="differs from clients.method in the keys given here")

    @field_validator("profile")
    @classmethod
    def _known(cls, profile: str) -> str:
        if profile.endswith(YAML_SUFFIXES):
            if not Path(profile).is_file():
                raise ValueError(f"there is no file {profile}; check the path")
        elif profile not in profiles.names():
            raise ValueError(f"unknown profile `{profile}`; {suggest(profile, profiles.names())}")
        return profile


class Batteries(Options):
    """How the batteries of those clients fare that have one."""

    start: tuple[Share, Share] = Field(
        default=(1.0, 1.0), strict=False, description="charge at the start, drawn for each client between these shares"
    )
    reserve: Share = Field(default=0.0, description="share of the capacity that training leaves alone")
    between_rounds_s: float = Field(default=0.0, ge=0, description="simulated time between two rounds, in which they recharge")

    @field_validator("start")
    @classmethod
    def _in_order(cls, start: tuple[float, float]) -> tuple[float, float]:
        if start[0] > start[1]:
            raise ValueError(f"the first share {start[0]:g} is above the second {start[1]:g}; write the lower one first")
        return start


class Clients(Options):
    """Who takes part, and how they train."""

    count: int = Field(ge=1, le=10**6, description="how many clients the federation has")
    per_round: int = Field(ge=1, description="how many of them take part in a round")
    local: Local = Field(default_factory=Local, description="what a client does in a round")
    method: Method = Field(default_factory=Method, description="how a client trains")
    batteries: Batteries = Field(default_factory=Batteries, description="how the batteries of those fare that have one")
    groups: list[Group] = Field(
        default=[{"profile": "raspberry-pi-4"}], validate_default=True, min_length=1, description="what devices the clients are"
    )
    """Once read, a group has its name, its share, and all of `local` and `method`."""
    select: Annotated[Selection, OneOf(SELECTORS)] = Field(
        default="uniform", validate_default=True, description="which of those that are there take part in a round"
    )
    availability: Annotated[Availability, OneOf(AVAILABILITIES)] = Field(
        default="always", validate_default=True, description="when, in simulated time, clients are there to be chosen"
    )

    @field_validator("per_round")
    @classmethod
    def _no_more_than_there_are(cls, per_round: int, info: ValidationInfo) -> int:
        if per_round > info.data.get("count", per_round):
            raise ValueError(f"{per_round} clients a round cannot be chosen from {info.data['count']}; lower it or raise `count`")
        return per_round

    @field_validator("groups")
    @classmethod
    def _complete(cls, groups: list[Group], info: ValidationInfo) -> list[Group]:
        """Fill in names and shares, and what the groups have in common."""
        shares = [group.share for group in groups if group.share is not None]
        if shares and len(shares) < len(groups):
            raise ValueError(f"{len(shares)} of {len(groups)} groups have a `share`; give all of them one, or none")
        if shares and abs(math.fsum(shares) - 1) > 1e-6:
            raise ValueError(f"the shares of the groups add up to {math.fsum(shares):.6g}, expected 1; change a `share`")
        common = {key: info.data[key] for key in ("local", "method") if key in info.data}
        complete: list[Group] = []
        for group, name in zip(groups, _names(groups), strict=True):
            update: dict[str, Any] = {key: _over(block, getattr(group, key)) for key, block in common.items()}
            update |= {"name": name, "share": group.share or 1 / len(groups)}
            complete.append(group.model_copy(update=update))
        return complete

    @field_validator("availability")
    @classmethod
    def _of_known_groups(cls, availability: Availability, info: ValidationInfo) -> Availability:
        groups: list[Group] = info.data.get("groups", [])
        known = dict.fromkeys(name for group in groups for name in (group.name, group.profile) if name)
        wrong = [name for name in availability.groups if name not in known] if isinstance(availability, Daily) else []
        if known and wrong:
            raise ValueError(f"there is no group or profile `{wrong[0]}`; {suggest(wrong[0], known)}")
        return availability


def _over(common: Options, own: Options) -> Options:
    """Return the common block with the keys that the own block was given."""
    return common.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def _names(groups: Sequence[Group]) -> list[str]:
    """Return the groups' names, those not given made of the profile and, from the second on, a number."""
    given = [group.name for group in groups if group.name]
    if twice := next((name for name in given if given.count(name) > 1), None):
        raise ValueError(f"two groups have the name `{twice}`; change one")
    names: list[str] = []
    for group in groups:
        stem = Path(group.profile).stem if group.profile.endswith(YAML_SUFFIXES) else group.profile
        free = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
        names.append(group.name or next(name for name in free if name not in {*given, *names}))
    return names
