"""A scenario: everything that decides a run, as one YAML file. The models below are its reference, key by key.

Reading refuses what it does not know, and reports everything that is wrong at once, with file, line and column.
"""

from __future__ import annotations

import io
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from ruamel.yaml import YAML

from fedapt.admission import Admission
from fedapt.clients.backward import RULES
from fedapt.clients.backward.rule import Backward
from fedapt.clients.continual import METHODS
from fedapt.clients.continual.memory import Continual
from fedapt.clients.faulty import Faults
from fedapt.clients.precision import POLICIES
from fedapt.clients.precision.policy import Policy
from fedapt.clients.samples import FILTERS
from fedapt.clients.samples.filter import Filter
from fedapt.cost import profiles
from fedapt.data import DataSpec, is_path
from fedapt.errors import ScenarioError
from fedapt.models import MODELS
from fedapt.models.model import ModelOptions
from fedapt.options import Bytes, Joules, Options
from fedapt.quant import FLOAT_BITS, HIGHEST_BITS, LOWEST_BITS
from fedapt.reading.explain import explain, suggest
from fedapt.reading.one_of import OneOf
from fedapt.reading.overrides import override, with_value
from fedapt.reading.yaml_source import KeyPath, Source, fail, read_bytes, read_file, value_at
from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from fedapt.strategies.strategy import StrategyOptions

Share = Annotated[float, Field(ge=0, le=1)]
YAML_SUFFIXES = (".yaml", ".yml")
MOST_SUPERNODES = 16
# Far more than that ends in a crash of the system's thread library.
MOST_THREADS = 256


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


class Engine(Options):
    """What runs the clients; none of this changes the results."""

    kind: Literal["ray", "inline", "superlink"] = Field(
        default="ray", description="worker processes, one process, or Flower's SuperLink"
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="worker processes; auto: one a core"
    )
    threads: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads of a worker; they may change the last bits")
    chunk: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="clients handed to a worker at a time"
    )
    max_attempts: int = Field(default=3, ge=1, description="how often a client is tried when its worker dies")
    task_timeout_s: float = Field(default=600.0, gt=0, description="seconds after which a silent worker is replaced")
    grace_s: float = Field(default=120.0, gt=0, description="seconds to wait for a worker when all are lost")


class Failures(Options):
    """What the server does about clients that do not answer well or in time."""

    min_updates: int = Field(default=1, ge=1, description="with fewer updates a round is empty, and the model stays as it is")
    max_empty_rounds: int = Field(default=0, ge=0, description="how many empty rounds in a row the run bears before it fails")
    deadline_s: float | None = Field(
        default=None, gt=0, description="device time, of the cost model, after which an update comes too late; null: never"
    )


class Evaluate(Options):
    """When accuracy is measured; after the last round it always is."""

    every: int = Field(default=1, ge=1, description="rounds between evaluations of the global model on the test set")
    clients_every: int | None = Field(
        default=None, ge=1, description="the same on each client's own held-out samples; null: at the end"
    )


class Keep(Options):
    """What a run keeps on the disk while it goes on; ledgers are always kept."""

    models: int = Field(
        default=2, ge=1, description="how many of the newest rounds keep the model and all that `fedapt resume` needs"
    )


class Scenario(Options):
    """One experiment."""

    version: Literal[1] = Field(description="version of this format: 1")
    name: str = Field(min_length=1, max_length=80, description="what reports and the run folder call it")
    seed: int = Field(default=0, ge=0, lt=2**63, description="every random draw of the run follows from it")
    rounds: int = Field(ge=1, le=10**6, description="how many rounds are trained")
    data: DataSpec = Field(description="which samples, and how they are dealt to the clients")
    model: Annotated[ModelOptions, OneOf(MODELS)] = Field(description="what is trained")
    clients: Clients = Field(description="who takes part, and how they train")
    strategy: Annotated[StrategyOptions, OneOf(STRATEGIES)] = Field(
        default="fedavg", validate_default=True, description="how the server aggregates"
    )
    engine: Engine = Field(default_factory=Engine, description="what runs the clients")
    evaluate: Evaluate = Field(default_factory=Evaluate, description="when accuracy is measured")
    keep: Keep = Field(default_factory=Keep, description="what is kept on the disk while the run goes on")
    admission: Admission = Field(default_factory=Admission, description="which updates may reach the aggregate")
    failures: Failures = Field(default_factory=Failures, description="what a round may lack, and for how long")
    faults: Faults = Field(default_factory=Faults, description="what goes wrong on purpose, to try how robust a method is")
    energy_table: Literal["linear", "horowitz", "bitops"] = Field(
        default="horowitz", description="energy of operations by their bits"
    )

    @field_validator("engine")
    @classmethod
    def _few_enough_processes(cls, engine: Engine, info: ValidationInfo) -> Engine:
        count = info.data["clients"].count if "clients" in info.data else 0
        if engine.kind == "superlink" and count > MOST_SUPERNODES:
            raise ValueError(
                f"superlink starts a process for each client, at most {MOST_SUPERNODES}, and there are {count};"
                " lower clients.count, or set engine.kind to ray"
            )
        return engine

    @field_validator("strategy")
    @classmethod
    def _enough_clients(cls, strategy: StrategyOptions, info: ValidationInfo) -> StrategyOptions:
        per_round = info.data["clients"].per_round if "clients" in info.data else strategy.least_updates
        if strategy.least_updates > per_round:
            raise ValueError(
                f"{strategy.kind} with these options needs {strategy.least_updates} updates, and a round has {per_round} clients;"
                " raise clients.per_round, or expect fewer bad ones"
            )
        return strategy

    @field_validator("failures")
    @classmethod
    def _reachable(cls, failures: Failures, info: ValidationInfo) -> Failures:
        per_round = info.data["clients"].per_round if "clients" in info.data else failures.min_updates
        if failures.min_updates > per_round:
            raise ValueError(f"min_updates {failures.min_updates} is more than the {per_round} clients of a round; lower it")
        return failures

    def group_of_clients(self) -> list[int]:
        """Return the group of each client: exact sizes by largest remainder, in an order drawn from the seed."""
        groups, count = self.clients.groups, self.clients.count
        total = math.fsum(group.share or 0 for group in groups)
        quotas = [round(count * (group.share or 0) / total, 9) for group in groups]
        sizes = [math.floor(quota) for quota in quotas]
        by_remainder = sorted(range(len(groups)), key=lambda group: sizes[group] - quotas[group])
        for group in by_remainder[: count - sum(sizes)]:
            sizes[group] += 1
        assigned = [group for group, size in enumerate(sizes) for _ in range(size)]
        return [assigned[index] for index in numpy_stream(self.seed, "groups").permutation(count)]


def load_scenario(name_or_path: str, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario file, or a packaged scenario by its name, with `key.path=value` settings laid over it.

    Relative data paths become absolute: those in a file start at its folder, all others at the working directory.
    Raises ScenarioError with one line for each thing that is wrong.
    """
    source, folder = _find(name_or_path)
    if source.data is None:
        raise fail(source.problems)
    source = _with_absolute_paths(override(source, overrides), folder)
    problems = list(source.problems)
    try:
        scenario = Scenario.model_validate(source.data)
    except ValidationError as error:
        problems += explain(error, Scenario, source)
    if problems:
        raise fail(problems)
    return scenario


def packaged() -> list[str]:
    """Return the names of the scenarios that come with fedapt."""
    files = resources.files("fedapt.scenarios").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def _find(name_or_path: str) -> tuple[Source, Path]:
    """Return the source, and the folder at which its relative paths start."""
    path = Path(name_or_path)
    if not os.path.exists(path) and not name_or_path.endswith(YAML_SUFFIXES) and len(path.parts) == 1:
        if name_or_path not in packaged():
            advice = suggest(name_or_path, packaged(), "packaged scenarios")
            raise ScenarioError(f"{name_or_path}: neither a file nor a packaged scenario; {advice}")
        file = resources.files("fedapt.scenarios") / f"{name_or_path}.yaml"
        return read_bytes(file.read_bytes(), str(file)), Path.cwd()
    return read_file(path), path.absolute().parent


def _with_absolute_paths(source: Source, folder: Path) -> Source:
    """Return the source with absolute paths of data and profiles; what names no file stays as it is."""
    groups = value_at(source.data, ("clients", "groups"))
    boards: list[KeyPath] = [("clients", "groups", n, "profile") for n in range(len(groups) if isinstance(groups, list) else 0)]
    data = source.data
    for path in [("data", "source"), ("data", "test"), *boards]:
        text = value_at(data, path)
        base = Path.cwd() if math.isinf(source.value_place(path).line) else folder
        if isinstance(text, str) and (text.endswith(YAML_SUFFIXES) if path in boards else is_path(text, base)):
            data = with_value(data, path, os.path.normpath(base / Path(text).expanduser()))
    return replace(source, data=data)


def dump_scenario(scenario: Scenario) -> str:
    """Return the scenario as YAML with every default filled in; reading it gives an equal scenario.

    A group says of `local` and `method` only what differs from the other clients, as a person would write it.
    """
    data = scenario.model_dump()
    for group in data["clients"]["groups"]:
        for block in ("local", "method"):
            common = data["clients"][block]
            own = {key: value for key, value in group.pop(block).items() if value != common[key]}
            group |= {block: own} if own else {}
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.sort_base_mapping_type_on_output = False
    yaml.width = 120
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue()


def scenario_schema() -> dict[str, Any]:
    """Return the JSON schema of a scenario, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Scenario.model_json_schema()}
