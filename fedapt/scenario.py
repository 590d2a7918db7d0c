"""A scenario: everything that decides a run, as one YAML file. The models below are its reference, key by key.

Reading refuses what it does not know, and reports everything that is wrong at once, with file, line and column.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from ruamel.yaml import YAML

from fedapt.admission import Admission
from fedapt.clients.faulty import Faults
from fedapt.clock import CLOCKS
from fedapt.clock.clock import Clock
from fedapt.data import DataSpec, is_path
from fedapt.errors import ScenarioError
from fedapt.fleet import YAML_SUFFIXES, Clients
from fedapt.models import MODELS
from fedapt.models.model import ModelOptions
from fedapt.options import Options
from fedapt.plugins.strategies import PluggedStrategies
from fedapt.pretraining import Pretraining
from fedapt.quant.half import Compute
from fedapt.reading.explain import explain, suggest
from fedapt.reading.one_of import OneOf
from fedapt.reading.overrides import override, with_value
from fedapt.reading.yaml_source import KeyPath, Problem, Source, fail, read_bytes, read_file, value_at
from fedapt.seeding import numpy_stream
from fedapt.strategies import STRATEGIES
from fedapt.strategies.strategy import StrategyOptions

Share = Annotated[float, Field(ge=0, le=1)]
DATA: list[KeyPath] = [(*block, key) for block in (("data",), ("pretrain", "on")) for key in ("source", "test")]
WEIGHTS: KeyPath = ("pretrain", "file")
TRACE: KeyPath = ("clients", "availability", "file")
ADDRESS = re.compile(r"[^/\s]+:\d+")
MOST_SUPERNODES = 16
# Far more than that ends in a crash of the system's thread library.
MOST_THREADS = 256
MOST_TOGETHER = 4096


class Engine(Options):
    """What runs the clients.

    Of results only the last digits may change, and only with `threads`, `batch_clients`, `device` and `channels_last`; with
    `compute` more than those.
    """

    kind: Literal["ray", "inline", "superlink"] = Field(
        default="ray", description="worker processes, one process, or Flower's SuperLink"
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="worker processes; auto: one a core, or one a CPU of the cluster"
    )
    address: str | None = Field(
        default=None, description="a Ray cluster to join, `auto` or host:port; null: a Ray of its own on this machine"
    )
    threads: int = Field(default=1, ge=1, le=MOST_THREADS, description="threads of a worker; they may change the last bits")
    chunk: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="clients handed to a worker at a time"
    )
    batch_clients: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_TOGETHER)] = Field(
        default=1, description="clients trained as one batch of tensors, at fp32 with a plain method; auto: where that is faster"
    )
    device: Literal["cpu", "cuda", "auto"] = Field(
        default="cpu", description="where such batches of clients are trained; auto: on a GPU if there is one"
    )
    channels_last: bool = Field(
        default=False, description="lay images out so that convolutions are faster on most processors; changes the last bits"
    )
    compute: Compute = Field(
        default="float32",
        description="bfloat16: layers with codes of at most 8 bits round inputs and errors to bf16, where that is faster on"
        " processors that multiply it in hardware",
    )
    max_attempts: int = Field(default=3, ge=1, description="how often a client is tried when its worker dies")
    task_timeout_s: float = Field(default=600.0, gt=0, description="seconds after which a silent worker is replaced")
    grace_s: float = Field(default=120.0, gt=0, description="seconds to wait for a worker when all are lost")

    @property
    def wants_gpu(self) -> bool:
        """Whether clients are trained on a GPU, if there is one."""
        return self.device != "cpu" and self.batch_clients != 1

    @field_validator("address")
    @classmethod
    def _joinable(cls, address: str | None) -> str | None:
        if address is None or address == "auto" or ADDRESS.fullmatch(address):
            return address
        raise ValueError("it is `auto` or host:port, of a Ray cluster that this machine is part of")

    @model_validator(mode="after")
    def _batched_where_it_can_be(self) -> Engine:
        if self.batch_clients != 1 and self.kind == "superlink":
            raise ValueError("superlink plays each client in its own process; leave `batch_clients` out, or use ray or inline")
        if self.compute != "float32" and self.kind == "superlink":
            raise ValueError("superlink's clients compute as boards do; leave `compute` out, or use ray or inline")
        if self.batch_clients == 1 and self.device == "cuda":
            raise ValueError(
                "`device: cuda` trains batches of clients, one alone stays on the CPU; give `batch_clients: auto` too"
            )
        return self


class Failures(Options):
    """What the server does about clients that do not answer well."""

    min_updates: int = Field(default=1, ge=1, description="with fewer updates a round is empty, and the model stays as it is")
    max_empty_rounds: int = Field(default=0, ge=0, description="how many empty rounds in a row the run bears before it fails")


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
    pretrain: Pretraining | None = Field(
        default=None, description="what the model has learned before the first round, on the server; null: nothing"
    )
    clients: Clients = Field(description="who takes part, and how they train")
    strategy: Annotated[StrategyOptions, OneOf(STRATEGIES, PluggedStrategies())] = Field(
        default="fedavg", validate_default=True, description="how the server aggregates"
    )
    clock: Annotated[Clock, OneOf(CLOCKS, usual="synchronous")] = Field(
        default="synchronous", validate_default=True, description="for whom the server waits, in the devices' time"
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

    @field_validator("pretrain")
    @classmethod
    def _on_data_that_make_sense(cls, pretrain: Pretraining | None, info: ValidationInfo) -> Pretraining | None:
        if pretrain and pretrain.file is None and "data" in info.data:
            pretrain.on.over(info.data["data"])
        return pretrain

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

    @field_validator("clock")
    @classmethod
    def _possible(cls, clock: Clock, info: ValidationInfo) -> Clock:
        clients, strategy = info.data.get("clients"), info.data.get("strategy")
        if clients and clock.asked(clients.per_round) > clients.count:
            raise ValueError(
                f"{clock.asked(clients.per_round)} clients at work at once cannot be chosen from {clients.count};"
                " lower it, or raise clients.count"
            )
        if clients and clock.asked(clients.per_round) < clients.per_round:
            raise ValueError(
                f"a step of {clients.per_round} updates (clients.per_round) needs at least as many clients at work at once;"
                " raise `concurrency`, or lower clients.per_round"
            )
        if clock.kind == "asynchronous" and strategy and strategy.corrects:
            raise ValueError(
                f"{strategy.kind} corrects its clients' steps round by round, and without rounds it cannot;"
                " use `clock: synchronous` or another strategy"
            )
        return clock

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

    Relative paths of data, weights, profiles and traces become absolute: those in a file start at its folder, all others at the
    working directory.
    Raises ScenarioError with one line for each thing that is wrong.
    """
    source, folder = find(name_or_path)
    scenario, problems = parsed(with_absolute_paths(override(source, overrides), folder))
    if scenario is None or problems:
        raise fail(problems)
    return scenario


def parsed(source: Source) -> tuple[Scenario | None, list[Problem]]:
    """Return the scenario, unless it is none, and everything that is wrong with it."""
    problems = list(source.problems)
    try:
        return Scenario.model_validate(source.data), problems
    except ValidationError as error:
        return None, problems + explain(error, Scenario, source)


def packaged(benches: bool = False) -> list[str]:
    """Return the names of the scenarios, or of the benches, that come with fedapt."""
    return [name for name, of_benches in _packaged().items() if of_benches == benches]


@cache
def _packaged() -> dict[str, bool]:
    """Return by name whether a file that comes with fedapt is a bench."""
    files = [file for file in resources.files("fedapt.scenarios").iterdir() if file.name.endswith(".yaml")]
    kinds = {file.name.removesuffix(".yaml"): is_bench(read_bytes(file.read_bytes(), file.name).data) for file in files}
    return dict(sorted(kinds.items()))


def is_bench(data: Any) -> bool:
    """Return whether plain data are those of a bench file."""
    return isinstance(data, dict) and "base" in data and "axes" in data


def find(name_or_path: str) -> tuple[Source, Path]:
    """Return the source of a scenario, and the folder at which its relative paths start; raises ScenarioError."""
    source, folder = _find(name_or_path)
    if source.data is None:
        raise fail(source.problems)
    if is_bench(source.data):
        raise ScenarioError(f"{name_or_path} is a bench of several scenarios, not one; use `fedapt bench {name_or_path}`")
    return source, folder


def _find(name_or_path: str) -> tuple[Source, Path]:
    path = Path(name_or_path)
    if not os.path.exists(path) and not name_or_path.endswith(YAML_SUFFIXES) and len(path.parts) == 1:
        if name_or_path not in [*packaged(), *packaged(benches=True)]:
            advice = suggest(name_or_path, packaged(), "packaged scenarios")
            raise ScenarioError(f"{name_or_path}: neither a file nor a packaged scenario; {advice}")
        file = resources.files("fedapt.scenarios") / f"{name_or_path}.yaml"
        return read_bytes(file.read_bytes(), str(file)), Path.cwd()
    return read_file(path), path.absolute().parent


def with_absolute_paths(source: Source, folder: Path) -> Source:
    """Return the source with absolute paths of data, weights, profiles and traces; what names no file stays as it is."""
    groups = value_at(source.data, ("clients", "groups"))
    boards: list[KeyPath] = [("clients", "groups", n, "profile") for n in range(len(groups) if isinstance(groups, list) else 0)]
    data = source.data
    for path in [*DATA, *boards, TRACE, WEIGHTS]:
        text = value_at(data, path)
        base = Path.cwd() if math.isinf(source.value_place(path).line) else folder
        if isinstance(text, str) and _names_file(text, path, base):
            data = with_value(data, path, os.path.normpath(base / Path(text).expanduser()))
    return replace(source, data=data)


def _names_file(text: str, path: KeyPath, base: Path) -> bool:
    if path in (TRACE, WEIGHTS):
        return bool(text)
    return text.endswith(YAML_SUFFIXES) if path[-1] == "profile" else is_path(text, base)


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
