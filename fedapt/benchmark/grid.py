"""From a bench file to its cells: every combination of the axes, each a whole scenario that was checked before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedapt.benchmark.file import SEED, BenchFile, part, read_bench
from fedapt.errors import ScenarioError
from fedapt.fleet import YAML_SUFFIXES
from fedapt.reading.explain import describe, suggest
from fedapt.reading.overrides import key_path, lay, override
from fedapt.reading.yaml_source import KeyPath, Place, Problem, Source, dotted, fail
from fedapt.scenario import Scenario, find, parsed, with_absolute_paths

MOST_CELLS = 10_000
# Linux takes 255 bytes in a name.
LONGEST_NAME = 120


@dataclass(frozen=True)
class Choice:
    """One value of an axis. settings: what it lays over the scenario, by key path; place: where it stands."""

    label: str
    settings: tuple[tuple[KeyPath, Source], ...]
    place: Place


@dataclass(frozen=True)
class Cell:
    """One run of a bench. labels: by axis, `seed` among them if it is one; name: what its folder is called."""

    labels: dict[str, str]
    name: str
    scenario: Scenario

    @property
    def settings(self) -> dict[str, str]:
        """The labels without the seed: what the cell's arm is."""
        return {axis: label for axis, label in self.labels.items() if axis != SEED}

    @property
    def title(self) -> str:
        """What people call the cell."""
        return title(self.labels)


@dataclass(frozen=True)
class Bench:
    """A bench that can be played. cells: in the order of playing, seed by seed; baseline: a label for each axis it fixes."""

    name: str
    cells: tuple[Cell, ...]
    baseline: dict[str, str]
    target_accuracy: float | None
    at_once: int | None


def load_bench(name_or_path: str, settings: Sequence[str] = ()) -> Bench:
    """Read a bench file, or a packaged bench by its name, and check every cell.

    settings: `key.path=value`, for the file's own keys or else for every scenario.
    Raises ScenarioError with one line for each thing that is wrong; what is wrong in several cells is said once.
    """
    file, source, folder, common = read_bench(name_or_path, settings)
    problems: list[Problem] = []
    axes = {axis: _choices(axis, values, source, problems) for axis, values in file.axes.items()}
    for number, exclusion in enumerate(file.exclude):
        _check_labels(exclusion, axes, source, ("exclude", number), problems)
    _check_labels(file.baseline, axes, source, ("baseline",), problems)
    if SEED in file.baseline:
        problems.append(
            Problem(source.key_place(("baseline", SEED)), "baseline", "arms are compared over all seeds; remove `seed`")
        )
    count = _product(axes)
    if count > MOST_CELLS:
        problems.append(Problem(source.value_place(("axes",)), "axes", f"{count:,} cells, expected at most {MOST_CELLS:,}"))
    if problems:
        raise fail(problems)
    base = _base(file, source, folder)
    cells, wrong = _cells(file, base, axes, folder, common)
    problems += [*wrong, *_twins(cells, source)]
    if problems:
        raise fail(problems)
    if not cells:
        raise fail([Problem(source.value_place(("exclude",)), "exclude", "nothing is left to play; exclude less")])
    fixed = {axis: str(_label(value)) for axis, value in file.baseline.items()}
    _check_baseline(cells, fixed, source)
    return Bench(file.name, tuple(cells), fixed, file.target_accuracy, None if file.at_once == "auto" else file.at_once)


def _product(axes: Mapping[str, Sequence[Choice]]) -> int:
    count = 1
    for choices in axes.values():
        count *= len(choices)
    return count


def _choices(axis: str, values: Sequence[Any], source: Source, problems: list[Problem]) -> list[Choice]:
    """Return the values of an axis; what is wrong with them is added to `problems`."""
    path = key_path(axis)
    choices: list[Choice] = []
    kinds = [value.get("kind") for value in values if isinstance(value, dict)]
    for number, value in enumerate(values):
        at: KeyPath = ("axes", axis, number)
        place = source.value_place(at)
        if isinstance(value, dict) and {"label", "set"} & value.keys():
            choice = _labelled(value, source, at, problems)
        elif isinstance(value, list):
            text = "a list needs a label: write `{label: a name, set: {" + axis + ": [...]}}`"
            problems.append(Problem(place, dotted(at), text))
            continue
        else:
            label = _label(value, short=isinstance(value, dict) and kinds.count(value.get("kind")) == 1)
            found = part(source, at, value)
            choice = Choice(label, ((path, found),) if path else (), place)
        if choice is None:
            continue
        if not choice.label or choice.label in {other.label for other in choices}:
            text = f"`{choice.label}` stands there twice" if choice.label else "the label is empty"
            problems.append(Problem(place, dotted(at), f"{text}; remove one, or write `label: another one`"))
        choices.append(choice)
    if path is None:
        problems.append(
            Problem(source.key_place(("axes", axis)), "axes", "expected a key path such as `clients.count`, or a name")
        )
    return choices


def _labelled(value: dict[str, Any], source: Source, at: KeyPath, problems: list[Problem]) -> Choice | None:
    """Return a choice that is written `{label: ..., set: {...}}`."""
    wrong: list[Problem] = []
    for key in value:
        if key not in ("label", "set"):
            wrong.append(Problem(source.key_place((*at, key)), dotted(at), f"unknown key `{key}`; allowed here: label, set"))
    label, settings = value.get("label"), value.get("set")
    if not isinstance(label, (str, int, float)) or isinstance(label, bool):
        wrong.append(Problem(source.value_place((*at, "label")), dotted(at), f"expected a `label`, found {describe(label)}"))
    if not isinstance(settings, dict):
        text = f"expected `set` with settings by key path, found {describe(settings)}"
        wrong.append(Problem(source.value_place((*at, "set")), dotted(at), text))
    problems += wrong
    if wrong or not isinstance(settings, dict):
        return None
    laid = tuple((key_path(key) or (key,), part(source, (*at, "set", key), item)) for key, item in settings.items())
    return Choice(str(label), laid, source.value_place(at))


def _label(value: Any, short: bool = False) -> str:
    """Return what people call a value: `krum`, or `krum malicious=4` where the kind alone does not tell."""
    if isinstance(value, dict):
        kind, rest = value.get("kind"), {key: item for key, item in value.items() if key != "kind"}
        if kind is not None and (short or not rest):
            return str(kind)
        return " ".join([*([str(kind)] if kind is not None else []), *(f"{key}={_label(item)}" for key, item in rest.items())])
    if isinstance(value, list):
        return "+".join(map(_label, value))
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and float(short_form := f"{value:g}") == value:
        return short_form
    return str(value)


def _check_labels(
    wanted: Mapping[str, Any], axes: Mapping[str, Sequence[Choice]], source: Source, at: KeyPath, problems: list[Problem]
) -> None:
    for axis, value in wanted.items():
        place = source.value_place((*at, axis))
        if axis not in axes:
            text = f"there is no axis `{axis}`; {suggest(axis, axes, 'axes')}"
            problems.append(Problem(source.key_place((*at, axis)), dotted(at), text))
        elif _label(value) not in (labels := [choice.label for choice in axes[axis]]):
            text = f"`{_label(value)}` is no label of the axis; {suggest(_label(value), labels, 'labels')}"
            problems.append(Problem(place, dotted((*at, axis)), text))


def _base(file: BenchFile, source: Source, folder: Path) -> Source:
    """Return the base with the settings of the file laid over it, and absolute paths."""
    if isinstance(file.base, dict):
        base = with_absolute_paths(part(source, ("base",), file.base), folder)
    else:
        is_file = file.base.endswith(YAML_SUFFIXES) or "/" in file.base
        try:
            base = with_absolute_paths(*find(str(folder / Path(file.base).expanduser()) if is_file else file.base))
        except ScenarioError as error:
            if "\n" in str(error):
                raise
            text = str(error).partition("; use `fedapt bench")[0]
            raise fail([Problem(source.value_place(("base",)), "base", text)]) from None
    place = source.value_place(("name",))
    base = lay(base, ("name",), Source(file.name, {}, {}), place)
    for keys, value in file.set.items():
        at = source.key_place(("set", keys))
        base = lay(base, key_path(keys) or (keys,), part(source, ("set", keys), value), at)
    if base.problems:
        raise fail(base.problems)
    return base


def _cells(
    file: BenchFile, base: Source, axes: Mapping[str, Sequence[Choice]], folder: Path, common: Sequence[str]
) -> tuple[list[Cell], list[Problem]]:
    """Return all cells, and all that is wrong with them: each complaint once, with the cells that it is about."""
    cells: list[Cell] = []
    found: dict[Problem, list[str]] = {}
    names: set[str] = set()
    total = 0
    for labels, settings in _combinations(file, axes):
        total += 1
        source = base
        for choice in settings:
            for path, value in choice.settings:
                source = lay(source, path, value, choice.place)
        scenario, problems = parsed(with_absolute_paths(override(source, common), folder))
        if scenario is not None and scenario.engine.kind == "superlink":
            text = "a bench plays its cells by `ray` or `inline`; superlink is for single runs"
            problems.append(Problem(source.value_place(("engine", "kind")), "engine.kind", text))
        for problem in problems:
            found.setdefault(problem, []).append(title(labels))
        if scenario is not None:
            cells.append(Cell(labels, _folder_name(labels, names), scenario))
    return cells, [_about(problem, titles, total) for problem, titles in found.items()]


def _combinations(file: BenchFile, axes: Mapping[str, Sequence[Choice]]) -> Iterator[tuple[dict[str, str], tuple[Choice, ...]]]:
    """Yield labels and choices of all cells, seed by seed, so that arms can be compared early."""
    order = [axis for axis in axes if axis == SEED] + [axis for axis in axes if axis != SEED]
    for choices in itertools.product(*(axes[axis] for axis in order)):
        chosen = dict(zip(order, choices, strict=True))
        labels = {axis: chosen[axis].label for axis in axes}
        if not any(all(labels[axis] == _label(value) for axis, value in out.items()) for out in file.exclude if out):
            yield labels, tuple(chosen[axis] for axis in axes)


def _about(problem: Problem, titles: Sequence[str], total: int) -> Problem:
    if len(titles) == total and total > 1:
        where = f"in all {total} cells"
    elif len(titles) == 1:
        where = f"in cell {titles[0]}"
    else:
        where = f"in {len(titles)} of {total} cells, the first is {titles[0]}"
    return Problem(problem.place, problem.path, f"{problem.text} ({where})")


def _twins(cells: Sequence[Cell], source: Source) -> Iterator[Problem]:
    """Complain about cells that are the same scenario: an axis then sets what something else overrules."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        first = seen.setdefault(cell.scenario.model_dump_json(), cell)
        if first is not cell:
            text = (
                f"the cells {first.title} and {cell.title} are the same scenario; remove one, or what sets the axis' key over it"
            )
            yield Problem(source.value_place(("axes",)), "axes", text)
            return


def _check_baseline(cells: Sequence[Cell], fixed: Mapping[str, str], source: Source) -> None:
    if not any(all(cell.labels[axis] == label for axis, label in fixed.items()) for cell in cells):
        text = "`exclude` leaves nothing of the baseline; choose another one"
        raise fail([Problem(source.value_place(("baseline",)), "baseline", text)])


def title(labels: Mapping[str, str]) -> str:
    """Return labels as people say them: words speak for themselves, numbers need the end of their axis' name."""
    return ", ".join(_words(labels))


def _words(labels: Mapping[str, str]) -> list[str]:
    plain = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false|null")
    return [f"{axis.rpartition('.')[2]} {label}" if plain.fullmatch(label) else label for axis, label in labels.items()]


def _folder_name(labels: Mapping[str, str], taken: set[str]) -> str:
    """Return a name for a cell's folder that can be read, typed and sorted, and that no other cell has."""
    stem = "_".join(re.sub(r"[^A-Za-z0-9.=+-]+", "-", word).strip("-.") or "x" for word in _words(labels))[:LONGEST_NAME]
    name = next(name for number in itertools.count(1) if (name := stem if number == 1 else f"{stem}_{number}") not in taken)
    taken.add(name)
    return name
