"""`fedapt bench`: play what is left of a bench, and compare its arms.

A bench lives in one folder, `runs/<name>`, with a run folder for each cell. Started again, it checks the cells that are finished,
goes on with those that are half played, to the same bits, and plays the others. Cells whose scenario has changed are not mixed
with those of before: the bench says what changed, and ends.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedapt import __version__
from fedapt.benchmark.cells import Ended, Standing, changes, play_cell, standing
from fedapt.benchmark.comparison import Arm, Comparison, compare
from fedapt.benchmark.display import BenchDisplay
from fedapt.benchmark.forecast import Forecast
from fedapt.benchmark.grid import Bench, Cell, title
from fedapt.benchmark.output import show, write_results
from fedapt.data import is_path
from fedapt.environment import EXACT, environment, usable_cores
from fedapt.errors import CannotResume, FedaptError, RunFailed, SetupError
from fedapt.record.commits import Commits
from fedapt.record.files import write_whole
from fedapt.record.lock import in_use
from fedapt.record.tables import as_json, read_json
from fedapt.report.figures import counted
from fedapt.report.page import share_script
from fedapt.results import read_run
from fedapt.scenario import dump_scenario
from fedapt.stopping import Stopped, Stopper
from fedapt.tracking.afterwards import track_each, usable

ABOUT = "bench.json"
CELLS = "cells"
MOST_CHANGES = 6


def folder_of(bench: Bench, root: Path) -> Path:
    """Return the folder of a bench, the same each time it is started."""
    return root / (re.sub(r"[^A-Za-z0-9._-]+", "-", bench.name).strip("-.")[:80] or "bench")


def play_bench(
    bench: Bench,
    root: Path,
    command: str,
    display: BenchDisplay,
    stopper: Stopper,
    *,
    trackers: Sequence[str] = (),
    retry: bool = False,
) -> Path:
    """Play all cells that are not finished, write the results, and return the bench's folder.

    trackers: are told each cell when it has ended; retry: also those that failed by their own rules.
    Raises CannotResume if the folder holds this bench with other scenarios, SetupError if another process has it, and RunFailed
    at the end if a cell failed.
    """
    _require_data(bench)
    folder = folder_of(bench, root)
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise SetupError(
            f"{root}: the bench's folder cannot be made there ({reason}). Choose a writable folder: --output FOLDER"
        ) from None
    display.message(str(folder), "bold")
    with in_use(folder):
        _refuse_changes(bench, folder)
        _write_about(bench, folder, command)
        share_script(folder)
        states = _standings(bench, folder, display, retry=retry)
        _announce(bench, folder, states, display)
        try:
            _play(bench, folder, states, display, stopper, trackers)
        except Stopped:
            display.close()
            display.message(f"The same command goes on from here; what is finished so far: fedapt compare {folder}")
            raise
        display.close()
        comparison = gather(bench, folder)
        write_results(comparison, folder, command)
        show(comparison, display.console, folder)
    failed = [cell for cell in bench.cells if standing_now(folder, cell).state != "finished"]
    if failed:
        raise RunFailed(
            f"{len(failed)} of {len(bench.cells)} cells failed, the first is {failed[0].title}:"
            f" {standing_now(folder, failed[0]).sentence}"
        )
    return folder


def command_line() -> str:
    """Return what the user typed."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def cell_path(folder: Path, cell: Cell) -> Path:
    """Return the run folder of a cell."""
    return folder / CELLS / cell.name


def standing_now(folder: Path, cell: Cell) -> Standing:
    """Return what became of a cell, with the sentence of any failure; a damaged one has failed."""
    path = cell_path(folder, cell)
    try:
        found = standing(path, cell.scenario.rounds)
        if found.state == "begun" and (path / "failed.json").exists():
            return Standing("failed", found.rounds, str(read_json(path / "failed.json", ("sentence",))["sentence"]))
        return found
    except FedaptError as error:
        return Standing("failed", 0, str(error))


def gather(bench: Bench, folder: Path) -> Comparison:
    """Compare the arms of a bench over the cells that are finished."""
    grouped: dict[str, list[Cell]] = {}
    for cell in bench.cells:
        grouped.setdefault(title(cell.settings) or bench.name, []).append(cell)
    arms, notes = [], []
    for name, cells in grouped.items():
        states = [standing_now(folder, cell) for cell in cells]
        runs = [read_run(cell_path(folder, cell)) for cell, now in zip(cells, states, strict=True) if now.state == "finished"]
        why: dict[str, list[str]] = {}
        missing = []
        for cell, now in zip(cells, states, strict=True):
            if now.state != "finished":
                missing.append(f"{cell.title}: {now.sentence or 'not played'}")
                why.setdefault(now.sentence or "not played", []).append(cell.title)
        arms.append(Arm(name, cells[0].settings, tuple(runs), tuple(missing)))
        notes += [f"{titles[0]}{_and_more(titles)}: {sentence}" for sentence, titles in why.items()]
    notes += _mixed([run.environment for arm in arms for run in arm.runs])
    return compare(bench.name, arms, bench.baseline, bench.target_accuracy, notes)


def _and_more(titles: Sequence[str]) -> str:
    return f" and {len(titles) - 1} more of the arm" if len(titles) > 1 else ""


def _mixed(environments: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Say in what the machines and versions differ under which the cells were played."""
    for name in EXACT:
        found = sorted({str(one.get(name)) for one in environments})
        if len(found) > 1:
            yield f"the cells were not all played under the same {name}: {', '.join(found)}"


def _require_data(bench: Bench) -> None:
    """Raise SetupError if a file or folder of samples is not there."""
    for data in dict.fromkeys((cell.scenario.data.source, cell.scenario.data.test) for cell in bench.cells):
        for key, path in zip(("source", "test"), data, strict=True):
            if path is not None and is_path(path) and not Path(path).exists():
                raise SetupError(f"data.{key}: {path} does not exist. Name what there is: --set data.{key}=PATH")


def _refuse_changes(bench: Bench, folder: Path) -> None:
    """Raise CannotResume if the folder has other scenarios under the names of this bench's cells."""
    changed: dict[str, list[str]] = {}
    for cell in bench.cells:
        for phrase in changes(cell_path(folder, cell), cell.scenario):
            changed.setdefault(phrase, []).append(cell.title)
    if not changed:
        return
    lines = [f"{what} (in {len(cells)} cells, the first is {cells[0]})" for what, cells in changed.items()]
    more = f"; and {len(lines) - MOST_CHANGES} more changes" if len(lines) > MOST_CHANGES else ""
    raise CannotResume(
        f"{folder} holds this bench with other settings: {'; '.join(lines[:MOST_CHANGES])}{more}."
        " Choose another --output or another name for the bench, or remove the folder."
    )


def _write_about(bench: Bench, folder: Path, command: str) -> None:
    about = {
        "fedapt": __version__,
        "name": bench.name,
        "command": command,
        "baseline": bench.baseline,
        "target_accuracy": bench.target_accuracy,
        "cells": [{"folder": f"{CELLS}/{cell.name}", "labels": cell.labels} for cell in bench.cells],
        "environment": environment(),
    }
    write_whole(folder / ABOUT, as_json(about))


def _standings(bench: Bench, folder: Path, display: BenchDisplay, *, retry: bool) -> dict[str, Standing]:
    found = {}
    for cell in bench.cells:
        now = standing(cell_path(folder, cell), cell.scenario.rounds)
        if now.state == "failed" and not retry:
            display.warning(f"{cell.title} failed before: {now.sentence} (--retry plays it again)")
        found[cell.name] = Standing("begun", now.rounds) if now.state == "failed" and retry else now
    others = {path.name for path in (folder / CELLS).iterdir() if path.is_dir()} - found.keys()
    if others:
        display.message(f"kept, though no longer a part of this bench: {counted(len(others), 'cell')}")
    return found


def _announce(bench: Bench, folder: Path, states: Mapping[str, Standing], display: BenchDisplay) -> None:
    counts = {state: sum(now.state == state for now in states.values()) for state in ("finished", "begun", "failed", "new")}
    words = {"finished": "finished before", "begun": "to go on with", "failed": "failed before", "new": "to play"}
    parts = [f"{count} {words[state]}" for state, count in counts.items() if count]
    arms = len({str(cell.settings) for cell in bench.cells})
    seeds = len(bench.cells) // arms
    display.message(f"{len(bench.cells)} cells ({arms} arms, {seeds} a piece): {', '.join(parts)}", "dim")


def _play(
    bench: Bench, folder: Path, states: Mapping[str, Standing], display: BenchDisplay, stopper: Stopper, trackers: Sequence[str]
) -> None:
    cells = {cell.name: cell for cell in bench.cells}
    # What is half played first: its state on the disk is the largest.
    order = {"begun": 0, "new": 1}
    wanted = sorted(
        (cell for cell in bench.cells if states[cell.name].state in order), key=lambda cell: order[states[cell.name].state]
    )
    if not wanted:
        return
    together = at_once(bench, len(wanted))
    forecast = Forecast(together)
    for cell in bench.cells:
        if states[cell.name].state == "finished":
            summary = read_json(cell_path(folder, cell) / "summary.json", ("wall_s", "rounds"))
            forecast.learn(str(cell.settings), summary["rounds"], summary["wall_s"])
    display.start(
        [cell for cell in bench.cells if states[cell.name].state != "failed"],
        {cell.name: cell.scenario.rounds - states[cell.name].rounds for cell in wanted},
        forecast,
    )
    begun_s: dict[str, float] = {}
    trackers = usable(trackers, display.warning)
    for name, ended in _ends(wanted, folder, together, stopper):
        cell, path = cells[name], cell_path(folder, cells[name])
        if ended is None:
            begun_s[name] = time.monotonic()
            display.cell_begun(cell, Commits(path / "rounds"))
            continue
        figures = {}
        if not ended.exit_code:
            figures = read_json(path / "summary.json", ("accuracy", "total"))
            # With all that it takes to begin and to end a run, which is most of a small one.
            forecast.learn(str(cell.settings), cell.scenario.rounds - states[name].rounds, time.monotonic() - begun_s[name])
        energy = figures["total"]["energy_j"] if figures else None
        display.cell_ended(cell, ended, figures.get("accuracy"), energy)
        track_each(path, trackers, display.warning)


def at_once(bench: Bench, cells: int) -> int:
    """Return how many of so many cells are played at a time."""
    threads = max(cell.scenario.engine.threads for cell in bench.cells)
    return min(bench.at_once or max(usable_cores() // threads, 1), cells)


def _ends(cells: Sequence[Cell], folder: Path, together: int, stopper: Stopper) -> Iterator[tuple[str, Ended | None]]:
    """Play cells; yield each one's name when it is begun, with None, and when it has ended, with how."""
    if together == 1:
        for cell in cells:
            yield cell.name, None
            yield cell.name, play_cell(cell_path(folder, cell), dump_scenario(cell.scenario), stopper, inline=False)
        return
    try:
        from fedapt.benchmark.actors import Job, Players
    except ImportError as error:
        raise SetupError(
            f"playing cells at once needs Ray ({error}): pip install 'fedapt[sim]', or set at_once to 1 and engine.kind to inline"
        ) from None
    threads = max(cell.scenario.engine.threads for cell in cells)
    with Players(together, threads) as players:
        jobs = [Job(cell.name, cell_path(folder, cell), dump_scenario(cell.scenario)) for cell in cells]
        for job, ended in players.play(jobs, stopper):
            yield job.name, ended
