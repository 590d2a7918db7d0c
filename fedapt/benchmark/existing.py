"""`fedapt compare`: runs that exist, grouped into arms by what differs between their scenarios besides the seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedapt.benchmark.cells import SCENARIO, flat
from fedapt.benchmark.comparison import Arm, Comparison, compare, seed_of
from fedapt.benchmark.grid import title
from fedapt.errors import DamagedData, SetupError
from fedapt.reading.explain import suggest
from fedapt.reading.yaml_source import read_text
from fedapt.record.tables import read_json
from fedapt.results import Run, read_run

BENCH = "bench.json"
# What changes no result: how it was computed, what was kept, what it was called.
INDIFFERENT = ("seed", "name", "engine", "keep")
TEST_DATA = ("data.source", "data.test", "data.test_samples", "data.test_share")

Flat = dict[str, Any]


def compare_runs(paths: Sequence[Path], baseline: str | None, target: float | None) -> Comparison:
    """Compare runs; a bench's folder stands for all of its cells that were begun.

    baseline: the name of an arm, or one of the paths. Raises SetupError for a folder that holds neither run nor bench, for the
    same scenario and seed in two folders, and for a baseline that is none of the arms.
    """
    runs, fixed = _runs(paths)
    if not runs:
        raise SetupError("no run was given, and none of the benches has begun one; give run folders, for example runs/*")
    flats = [_scenario(run) for run in runs]
    grouped: dict[str, list[int]] = {}
    for number, own in enumerate(flats):
        grouped.setdefault(json.dumps(own, sort_keys=True), []).append(number)
    groups = list(grouped.values())
    settings = _labels_of_bench(runs, groups) or _settings([flats[numbers[0]] for numbers in groups])
    arms = [
        Arm(_name(labels, runs[numbers[0]]), labels, _by_seed([runs[number] for number in numbers]))
        for labels, numbers in zip(settings, groups, strict=True)
    ]
    chosen = _baseline(arms, baseline) if baseline else {}
    if not chosen and fixed and all(fixed.keys() <= arm.settings.keys() for arm in arms):
        chosen = fixed
    return compare(f"{len(runs)} runs", arms, chosen, target, _notes([flats[numbers[0]] for numbers in groups]))


def _runs(paths: Sequence[Path]) -> tuple[list[Run], dict[str, str]]:
    """Return the runs, each once, and the baseline of the bench if there is just one."""
    found: dict[Path, Path] = {}
    baselines: list[dict[str, str]] = []
    for path in paths:
        if (path / BENCH).is_file():
            baselines.append(read_json(path / BENCH, ("baseline",))["baseline"])
        found |= {one.resolve(): one for one in runs_in(path)}
    return [read_run(path) for path in found.values()], baselines[0] if len(paths) == len(baselines) == 1 else {}


def runs_in(path: Path) -> list[Path]:
    """Return the cells of a bench that were begun; for any other path that itself."""
    if not (path / BENCH).is_file():
        return [path]
    cells = [path / str(cell["folder"]) for cell in read_json(path / BENCH, ("cells",))["cells"]]
    return [cell for cell in cells if (cell / SCENARIO).is_file()]


def _scenario(run: Run) -> Flat:
    data = read_text(run.scenario, str(run.path / SCENARIO)).data
    if not isinstance(data, dict):
        raise DamagedData(f"{run.path / SCENARIO} is not the scenario of a run. Restore it from a copy.")
    return dict(flat({key: value for key, value in data.items() if key not in INDIFFERENT}, ""))


def _labels_of_bench(runs: Sequence[Run], groups: Sequence[Sequence[int]]) -> list[dict[str, str]]:
    """Return the labels that one bench gave to its arms, if all runs are of the same bench; else none."""
    benches = {run.path.resolve().parents[1] for run in runs}
    about = benches.pop() / BENCH
    if benches or not about.is_file():
        return []
    cells = {cell["folder"].rpartition("/")[2]: cell["labels"] for cell in read_json(about, ("cells",))["cells"]}
    names = [runs[numbers[0]].path.resolve().name for numbers in groups]
    if any(name not in cells for name in names):
        return []
    return [{axis: label for axis, label in cells[name].items() if axis != "seed"} for name in names]


def _settings(flats: Sequence[Flat]) -> list[dict[str, str]]:
    """Return for each scenario the keys in which it differs from others, as short as they can be, with its values."""
    keys = list(dict.fromkeys(key for own in flats for key in own))
    differing = [key for key in keys if len({json.dumps(own.get(key)) for own in flats}) > 1]
    telling = [key for key in differing if _tells(key, differing, flats)]
    short = {key: _short(key, telling) for key in telling}
    return [{short[key]: _written(own[key]) for key in telling if key in own} for own in flats]


def _tells(key: str, differing: Sequence[str], flats: Sequence[Flat]) -> bool:
    """Return whether a key says more than the kind of its block does: options of another kind say nothing."""
    block = key
    while "." in block:
        block = block.rpartition(".")[0]
        kind = f"{block}.kind"
        if kind in differing and kind != key:
            by_kind: dict[str, set[str]] = {}
            for own in flats:
                by_kind.setdefault(json.dumps(own.get(kind)), set()).add(json.dumps(own.get(key)))
            return any(len(values) > 1 for values in by_kind.values())
    return True


def _short(key: str, among: Sequence[str]) -> str:
    """Return the end of a key that no other key ends with; a kind is called what its block is."""
    steps = key.removesuffix(".kind").split(".")
    others = [other.removesuffix(".kind").split(".") for other in among if other != key]
    for length in range(1, len(steps) + 1):
        if not any(other[-length:] == steps[-length:] for other in others):
            return ".".join(steps[-length:])
    return key


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _name(labels: Mapping[str, str], run: Run) -> str:
    """Return what an arm is called."""
    return title(labels) or str(read_text(run.scenario, SCENARIO).data.get("name", run.path.name))


def _by_seed(runs: Sequence[Run]) -> tuple[Run, ...]:
    seeds: dict[int, Run] = {}
    for run in runs:
        first = seeds.setdefault(seed_of(run), run)
        if first is not run:
            raise SetupError(f"{first.path} and {run.path} are the same scenario with the same seed; give one of them")
    return tuple(seeds[seed] for seed in sorted(seeds))


def _baseline(arms: Sequence[Arm], wanted: str) -> dict[str, str]:
    path = Path(wanted).resolve()
    for arm in arms:
        if arm.name == wanted or any(run.path.resolve() == path for run in arm.runs):
            return arm.settings
    names = [arm.name for arm in arms]
    raise SetupError(f"--baseline `{wanted}` is none of the arms nor a run of them; {suggest(wanted, names, 'arms')}")


def _notes(flats: Sequence[Flat]) -> list[str]:
    notes = []
    rounds = sorted({own["rounds"] for own in flats})
    if len(rounds) > 1:
        notes.append(f"the arms have different numbers of rounds: {', '.join(map(str, rounds))}")
    other = [key for key in TEST_DATA if len({json.dumps(own.get(key)) for own in flats}) > 1]
    if other:
        notes.append(f"the accuracies are not of the same test data: {', '.join(other)} differ between the arms")
    return notes
