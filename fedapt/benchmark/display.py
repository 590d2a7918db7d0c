"""What `fedapt bench` prints while it goes: cells done, the rounds of those under way, and a forecast of the time left.

Without a terminal there is one plain line for each cell that has ended.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedapt.benchmark.cells import Ended
from fedapt.benchmark.forecast import Forecast
from fedapt.benchmark.grid import Cell
from fedapt.record.commits import Commits
from fedapt.report.figures import counted, harmless, joules, percent, seconds
from fedapt.report.terminal import wrapped

MOST_RUNNING = 12
REFRESH_HZ = 2
BAR = 24


class BenchDisplay:
    """Shows one bench; a context manager, so that the terminal is left in order however the bench ends."""

    def __init__(self, file: TextIO | None = None) -> None:
        file = file or sys.stdout
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="backslashreplace")
        self.console = Console(file=file, force_terminal=file.isatty(), highlight=False, markup=False, emoji=False)
        self._shows = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live: Live | None = None
        self._cells: dict[str, Cell] = {}
        self._left: dict[str, int] = {}
        self._running: dict[str, tuple[Commits, float, int]] = {}
        self._forecast = Forecast(1)

    def __enter__(self) -> BenchDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self, cells: Sequence[Cell], rounds_left: dict[str, int], forecast: Forecast) -> None:
        """Begin to show progress over all cells; rounds_left: of those that are not at their end, by name."""
        self._cells, self._left, self._forecast = {cell.name: cell for cell in cells}, dict(rounds_left), forecast
        if self._shows:
            self._live = Live(get_renderable=self._picture, console=self.console, refresh_per_second=REFRESH_HZ, transient=True)
            self._live.start()

    def cell_begun(self, cell: Cell, commits: Commits) -> None:
        """Show a cell as being played; its rounds are counted on the disk."""
        self._running[cell.name] = (commits, time.monotonic(), len(commits.numbers()))

    def cell_ended(self, cell: Cell, ended: Ended, accuracy: float | None, energy_j: float | None) -> None:
        """Say what a cell has reached, or why it failed."""
        self._running.pop(cell.name, None)
        self._left.pop(cell.name, None)
        done, total = len(self._cells) - len(self._left), len(self._cells)
        width = len(str(total))
        title = harmless(cell.title)
        if ended.exit_code:
            self.warning(f"{title} failed: {ended.sentence}")
            return
        left = self._left_text()
        figures = [f"[{done:{width}}/{total}]", f"{percent(accuracy):>7}", f"{joules(energy_j):>7}", f"{left:>14}", title]
        self.console.print(Text("  ".join(figures)), soft_wrap=True)

    def message(self, text: str, style: str = "") -> None:
        """Print a sentence, above the progress if that is shown."""
        self.console.print(Text("\n".join(wrapped(harmless(text), self.console.width)), style=style), soft_wrap=True)

    def warning(self, text: str) -> None:
        """Print a sentence that the user should not miss."""
        body = "\n".join(wrapped("Warning: " + harmless(text), self.console.width))
        self.console.print(Text.assemble(("Warning:", "bold yellow"), body.removeprefix("Warning:")), soft_wrap=True)

    def status(self, text: str) -> None:
        """Show on one line what is being done, in place of the line before; nothing without a terminal."""
        if not self._shows:
            return
        if not self._live:
            self._live = Live(console=self.console, transient=True)
            self._live.start()
        self._live.update(Text(harmless(text), style="dim", no_wrap=True, overflow="ellipsis"), refresh=True)

    def close(self) -> None:
        """Take the progress away; nothing happens if there is none."""
        if self._live:
            self._live.stop()
            self._live = None

    def _rounds_left(self) -> Iterable[tuple[str, int]]:
        for name, left in list(self._left.items()):
            played = 0
            if name in self._running:
                commits, _, before = self._running[name]
                played = len(commits.numbers()) - before
            yield str(self._cells[name].settings), max(left - played, 0)

    def _left_text(self) -> str:
        forecast = self._forecast if self._forecast.knows else self._glimpse()
        left_s = forecast.left_s(self._rounds_left())
        return "" if left_s is None or not self._left else f"{seconds(left_s)} left"

    def _glimpse(self) -> Forecast:
        """Return a forecast from the cells that are being played, while none has ended."""
        forecast = Forecast(max(len(self._running), 1))
        for name, (commits, began_s, before) in list(self._running.items()):
            forecast.learn(str(self._cells[name].settings), len(commits.numbers()) - before, time.monotonic() - began_s)
        return forecast

    def _picture(self) -> RenderableType:
        done, total = len(self._cells) - len(self._left), len(self._cells)
        head = Table.grid(padding=(0, 1))
        head.add_row(
            Text(f"{done}/{total} cells", style="bold"), ProgressBar(total, done, width=BAR), Text(self._left_text(), style="dim")
        )
        lines = Table.grid(padding=(0, 2))
        lines.add_column(no_wrap=True)
        lines.add_column(no_wrap=True, overflow="ellipsis")
        running = list(self._running.items())
        for name, (commits, _, _) in running[:MOST_RUNNING]:
            cell = self._cells[name]
            lines.add_row(Text(f"  round {len(commits.numbers())}/{cell.scenario.rounds}"), Text(harmless(cell.title)))
        if len(running) > MOST_RUNNING:
            lines.add_row("", Text(f"and {counted(len(running) - MOST_RUNNING, 'more cell')}"))
        return Group(head, lines)
