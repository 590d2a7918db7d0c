"""A bench file: a base scenario, and axes along which it varies. The model below is its reference, key by key."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from fedapt.errors import ScenarioError
from fedapt.fleet import YAML_SUFFIXES
from fedapt.options import Options
from fedapt.reading.explain import explain, suggest
from fedapt.reading.overrides import lay, override
from fedapt.reading.yaml_source import Place, Problem, Source, fail, read_bytes, read_file, read_text
from fedapt.scenario import is_bench, packaged

SEED = "seed"
KEYED = ("axes", "set", "baseline")


class BenchFile(Options):
    """Scenarios that differ along axes, and what they are compared with."""

    version: Literal[1] = Field(description="version of this format: 1")
    name: str = Field(min_length=1, max_length=80, description="what reports and the bench's folder call it")
    base: str | dict[str, Any] = Field(
        description="what all cells have in common: a scenario file as seen from this file, a packaged one's name, or a scenario"
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="settings of all cells over the base, by key path, for example `clients.count: 50`"
    )
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        min_length=1,
        description="what varies: by key path its values, or by a name of your own `{label: ..., set: {key.path: value}}`;"
        " `seed` makes runs of one arm",
    )
    exclude: list[dict[str, Any]] = Field(
        default_factory=list, description="combinations to leave out, each a label or value for one axis or more"
    )
    baseline: dict[str, Any] = Field(
        default_factory=dict, description="the label on some axes that arms are compared with; the first arm unless given"
    )
    target_accuracy: float | None = Field(
        default=None, gt=0, le=1, description="for rounds, time, energy and bytes to it; null: 95 % of what the baseline reaches"
    )
    at_once: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="cells played at a time, each in one process; auto: one a core; 1: one after another, by their own engine",
    )


def read_bench(name_or_path: str, settings: Sequence[str] = ()) -> tuple[BenchFile, Source, Path, list[str]]:
    """Return a bench file, its source, the folder at which its paths start, and the settings that are for its scenarios.

    A setting is for the file if its first step is one of the file's keys, for example `axes.seed=[0]`.
    Raises ScenarioError with one line for each thing that is wrong.
    """
    source, folder = _find(name_or_path)
    if isinstance(source.data, dict) and not is_bench(source.data) and "clients" in source.data:
        raise ScenarioError(f"{name_or_path} is one scenario, not a bench of several; use `fedapt run {name_or_path}`")
    own = [text for text in settings if text.partition("=")[0].strip().split(".")[0] in BenchFile.model_fields]
    for text in own if source.data is not None else ():
        source = _set(source, text)
    problems: list[Problem] = list(source.problems)
    bench = None
    if source.data is not None:
        # The keys of axes and settings are key paths themselves, which the base's own reading explains.
        try:
            bench = BenchFile.model_validate(source.data)
        except ValidationError as error:
            problems += explain(error, BenchFile, source)
    if bench is None or problems:
        raise fail(problems)
    return bench, source, folder, [text for text in settings if text not in own]


def _set(source: Source, setting: str) -> Source:
    """Return the file's source with a setting laid over it; the keys of axes and settings are key paths, so their dots stay."""
    keys, _, text = setting.partition("=")
    block, _, key = keys.strip().partition(".")
    value = read_text(text, f"--set {setting}")
    if block not in KEYED or not key or value.problems:
        return override(source, [setting])
    place = Place(math.inf, math.inf, f"--set {setting}")
    return lay(source, (block, key), Source(value.data, {}, {}), place)


def part(source: Source, path: tuple[str | int, ...], data: Any) -> Source:
    """Return what stands at `path` of a source as a source of its own."""
    length = len(path)
    keys = {at[length:]: where for at, where in source.keys.items() if at[:length] == path and len(at) > length}
    values = {at[length:]: where for at, where in source.values.items() if at[:length] == path}
    return replace(source, data=data, keys=keys, values={(): source.value_place(path), **values}, problems=())


def bench_schema() -> dict[str, Any]:
    """Return the JSON schema of a bench file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **BenchFile.model_json_schema()}


def _find(name_or_path: str) -> tuple[Source, Path]:
    path = Path(name_or_path)
    # A folder of that name, such as `bench` of a checkout, hides no packaged bench.
    is_file = os.path.exists(path) and not (path.is_dir() and name_or_path in packaged(benches=True))
    if is_file or name_or_path.endswith(YAML_SUFFIXES) or len(path.parts) > 1:
        return read_file(path), path.absolute().parent
    if name_or_path in packaged():
        raise ScenarioError(f"{name_or_path} is one scenario, not a bench of several; use `fedapt run {name_or_path}`")
    if name_or_path not in packaged(benches=True):
        advice = suggest(name_or_path, packaged(benches=True), "packaged benches")
        raise ScenarioError(f"{name_or_path}: neither a file nor a packaged bench; {advice}")
    file = resources.files("fedapt.scenarios") / f"{name_or_path}.yaml"
    return read_bytes(file.read_bytes(), str(file)), Path.cwd()
