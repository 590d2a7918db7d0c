"""`fedapt bench --dry-run`: the arms of a bench, and how long and how much they would take, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedapt.benchmark.bench import at_once, folder_of, standing_now
from fedapt.benchmark.display import BenchDisplay
from fedapt.benchmark.grid import Bench, Cell, title
from fedapt.check.machine import REPORT_BYTES
from fedapt.check.prediction import gather, predict
from fedapt.errors import FedaptError
from fedapt.report.figures import byte_count, counted, harmless, joules, memory, seconds
from fedapt.report.terminal import figure_table
from fedapt.run import played_inline

PAGE_BYTES = 10**6
HEADINGS = ["arm", "cells", "done", "rounds", "a cell", "energy", "peak mem"]


@dataclass(frozen=True)
class Forecast:
    """What one cell of an arm would take. wall_s: here, on one core; failure: why it could not be played."""

    wall_s: float = 0.0
    energy_j: float | None = None
    memory_bytes: float | None = None
    disk_bytes: int = 0
    failure: FedaptError | None = None


def list_cells(bench: Bench, root: Path, display: BenchDisplay) -> None:
    """Print the name of each cell, and what became of it so far."""
    folder = folder_of(bench, root)
    for cell in bench.cells:
        now = standing_now(folder, cell)
        done = f" {now.rounds}/{cell.scenario.rounds}" if now.state == "begun" else ""
        display.message(f"{now.state + done:16} {cell.name}")
        if now.sentence:
            display.message(f"{'':16} {now.sentence}", "dim")


def preview(bench: Bench, root: Path, display: BenchDisplay) -> None:
    """Print what the bench would play and take; raises the first error that a cell would fail with at its start."""
    folder = folder_of(bench, root)
    arms: dict[str, list[Cell]] = {}
    for cell in bench.cells:
        arms.setdefault(title(cell.settings) or bench.name, []).append(cell)
    rows, left_s, disk_bytes, failures = [], [], 0, []
    for number, (name, cells) in enumerate(arms.items(), 1):
        display.status(f"trying arm {number} of {len(arms)}: {name}")
        done = sum(standing_now(folder, cell).state == "finished" for cell in cells)
        one = _forecast(cells[0], root)
        if one.failure:
            failures.append(one.failure)
        left_s += [one.wall_s] * (len(cells) - done)
        disk_bytes += one.disk_bytes * (len(cells) - done)
        figures = [seconds(one.wall_s), joules(one.energy_j), memory(one.memory_bytes)] if not one.failure else ["fails", "", ""]
        rows.append([harmless(name), f"{len(cells)}", f"{done}", f"{cells[0].scenario.rounds}", *figures])
    display.close()
    display.message(f"{counted(len(bench.cells), 'cell')} of {counted(len(arms), 'arm')} in {folder}")
    display.console.print(figure_table(HEADINGS, rows, display.console.width))
    display.message(_size(bench, left_s, disk_bytes))
    for failure in failures:
        display.warning(str(failure))
    if failures:
        raise failures[0]


def _size(bench: Bench, left_s: Sequence[float], disk_bytes: int) -> str:
    if not left_s:
        return "All cells are finished: starting the bench writes its results again."
    together = at_once(bench, len(left_s))
    wall_s = max(sum(left_s) / together, max(left_s))
    cells = counted(len(left_s), "cell")
    return (
        f"About {seconds(wall_s)} of training for {cells}, {together} at once, a few seconds more to start and to write each,"
        f" and {byte_count(disk_bytes)} of disk."
    )


def _forecast(cell: Cell, root: Path) -> Forecast:
    try:
        prediction = predict(gather(played_inline(cell.scenario), root), ())
    except FedaptError as error:
        return Forecast(failure=error)
    # The cells' pages share one script, which is most of a page that stands alone.
    disk_bytes = max(prediction.room.disk_bytes - REPORT_BYTES, 0) + PAGE_BYTES
    peaks = [group.figures["memory_bytes"].max for group in prediction.groups if group.figures]
    return Forecast(prediction.simulation_s, prediction.all_rounds.energy_j, max(peaks, default=None), disk_bytes)
