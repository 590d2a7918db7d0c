"""What `fedapt run` prints: the run folder first, a progress bar over rounds, and one screen at the end.

Without a terminal there is one plain line a round, aligned and without control characters.
"""

from __future__ import annotations

import io
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedapt.cost.ledger import RoundRecord
from fedapt.record.totals import Cause, GroupTotals, Summary
from fedapt.report.figures import (
    HALF_WORDS,
    LAYOUT_WORDS,
    batched_words,
    byte_count,
    counted,
    decimal,
    distinct,
    filtered_words,
    harmless,
    joules,
    memory,
    percent,
    ranges,
    seconds,
)

MOST_GROUPS = 8
MOST_CAUSES = 4
LONGEST_REASON = 180
LABEL = 10
HEADINGS = ["group", "clients", "mean bits", "energy", "time", "down", "up", "peak mem"]


class Display:
    """Shows one run. Use it as a context manager, so that the terminal is left in order however the run ends."""

    def __init__(self, file: TextIO | None = None) -> None:
        file = file or sys.stdout
        if isinstance(file, io.TextIOWrapper):
            # A group may have a name that this terminal's encoding lacks: that is no reason to lose a run.
            file.reconfigure(errors="backslashreplace")
        self._console = Console(file=file, force_terminal=file.isatty(), highlight=False, markup=False, emoji=False)
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._rounds = 0
        self._round, self._cohort, self._done = 0, 1, 0
        self._accuracy: float | None = None
        self._energy_j = 0.0
        self._bytes = 0
        self._begun = ""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self, run_path: Path, rounds: int, about: Sequence[str]) -> None:
        """Print the run folder and what the run is, in a few phrases, and start the progress bar over `rounds` rounds."""
        self._rounds = rounds
        self._line(Text(str(run_path), style="bold"))
        phrases = wrapped(harmless("; ".join(about)), self._console.width)
        self._line(Text("\n".join(phrases), style="dim"))
        if self._live:
            self._progress = Progress(
                TextColumn("{task.fields[label]}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=self._console,
                expand=True,
                transient=True,
            )
            self._task = self._progress.add_task("", total=rounds, label="preparing", figures="")
            self._progress.start()

    def pretraining(self, done: float, epochs: int, loss: float | None) -> None:
        """Say that `done` of so many epochs are done before the first round; loss: of the last whole one."""
        if self._progress:
            figures = f"loss {decimal(loss, 3)}" if loss is not None else ""
            label = f"pretraining {min(int(done) + 1, epochs)}/{epochs}"
            self._progress.update(self._task, completed=done, total=epochs, label=label, figures=figures)
        elif done and done == int(done):
            width = len(str(epochs))
            self._line(Text(f"pretraining [{int(done):{width}}/{epochs}]  loss {decimal(loss, 3):>6}"))

    def pretrained(self, words: str) -> None:
        """Say what the model begins with, now and at the end."""
        self._begun = words
        if self._progress:
            self._progress.reset(self._task, total=self._rounds, label="preparing", figures="")
        self.message(words[0].upper() + words[1:])

    def round_started(self, round: int, cohort: int) -> None:
        """Say that round number `round` (from 0) has begun with `cohort` clients."""
        self._round, self._cohort, self._done = round, max(cohort, 1), 0
        if self._progress:
            self._progress.update(self._task, completed=round, label=f"round {round + 1}/{self._rounds}")

    def client_done(self, count: int = 1) -> None:
        """Move on within the round: `count` more clients have answered or failed."""
        self._done = min(self._done + count, self._cohort)
        if self._progress:
            self._progress.update(self._task, completed=self._round + self._done / self._cohort)

    def round_done(self, record: RoundRecord) -> None:
        """Show what the round achieved: in the bar, or as one line where there is no terminal."""
        self._energy_j += record.energy_j
        self._bytes += record.downlink_bytes + record.uplink_bytes
        self._accuracy = self._accuracy if record.accuracy is None else record.accuracy
        if self._progress:
            figures = f"{percent(self._accuracy)}  {joules(self._energy_j)}  {byte_count(self._bytes)}"
            bits = f"  {decimal(record.mean_bits)} bits" if record.mean_bits is not None else ""
            self._progress.update(self._task, completed=record.round + 1, figures=figures + bits)
        else:
            self._line(Text(_round_line(record, self._rounds)))

    def message(self, text: str) -> None:
        """Print a sentence above the progress bar."""
        self._console.print(Text(harmless(text)))

    def warning(self, text: str) -> None:
        """Print a sentence that the user should not miss."""
        self._console.print(Text.assemble(("Warning: ", "bold yellow"), harmless(text)))

    def finish(self, summary: Summary, run_path: Path) -> None:
        """End the progress bar and print the final screen."""
        self.close()
        self._console.print()
        if summary.rounds < self._rounds:
            self._labelled("Stopped", f"after {summary.rounds} of {counted(self._rounds, 'round')}", "yellow")
        for label, text in _accuracy_lines(summary):
            self._labelled(label, text)
        if self._begun:
            self._labelled("Start", self._begun)
        self._console.print()
        self._console.print(_group_table(summary, self._console.width))
        self._console.print()
        for label, text in [*_cost_lines(summary), *_cause_lines(summary.causes)]:
            self._labelled(label, text)
        self._labelled("Results", str(run_path))
        self._labelled("Report", str(run_path / "report.html"))

    def close(self) -> None:
        """Take the progress bar away; nothing happens if there is none."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _line(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _labelled(self, label: str, text: str, style: str = "") -> None:
        body = wrapped(harmless(text), self._console.width - LABEL)
        self._line(Text.assemble((f"{label:{LABEL}}", "bold"), (f"\n{' ' * LABEL}".join(body), style)))


def wrapped(text: str, width: int) -> list[str]:
    """Break text into lines, but no number away from its unit and no word in two."""
    glued = re.sub(r"(?<=\d) (?=[%A-Za-z])", "\0", text)
    lines = textwrap.wrap(glued, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in lines]


def _round_line(record: RoundRecord, rounds: int) -> str:
    width = len(str(rounds))
    figures = [
        f"[{record.round + 1:{width}}/{rounds}]",
        f"accuracy {percent(record.accuracy):>7}",
        f"loss {decimal(record.loss, 3):>6}",
        f"bits {decimal(record.mean_bits):>4}",
        f"energy {joules(record.energy_j):>7}",
        f"down {byte_count(record.downlink_bytes):>7}",
        f"up {byte_count(record.uplink_bytes):>7}",
        f"clients {record.ok}/{record.cohort}",
        f"{seconds(record.wall_s):>7}",
    ]
    return "  ".join(figures)


def _accuracy_lines(summary: Summary) -> list[tuple[str, str]]:
    if summary.accuracy is None:
        return [("Accuracy", "none: the global model was not evaluated")]
    best = f" (best {percent(summary.best_accuracy)} after {counted((summary.best_round or 0) + 1, 'round')})"
    lines = [("Accuracy", f"{percent(summary.accuracy)} global{best}, loss {decimal(summary.loss, 3)}")]
    spread = summary.client_accuracy
    if spread:
        lines.append(
            (
                "",
                f"{percent(spread.mean)} mean over {counted(spread.clients, 'client')}, each at its own bits:"
                f" min {percent(spread.min)}, p10 {percent(spread.p10)}, median {percent(spread.median)},"
                f" p90 {percent(spread.p90)}, max {percent(spread.max)}",
            )
        )
    return lines


def _group_table(summary: Summary, width: int) -> Table:
    """Return the costs by group, the total last; groups beyond the most expensive few share a line that says so."""
    dearest = sorted(summary.groups, key=lambda group: -group.energy_j)[:MOST_GROUPS]
    rows = [_group_cells(group) for group in summary.groups if group in dearest]
    total = _group_cells(summary.total)
    hidden = len(summary.groups) - len(dearest)
    if hidden:
        rows.append([f"({counted(hidden, 'more group')})", *[""] * (len(total) - 1)])
    return figure_table(HEADINGS, rows, width, total)


def figure_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, total: Sequence[str] = ()) -> Table:
    """Return a table whose first column gives way to the numbers; total: a last line in bold."""
    gap = 2 if width >= 90 else 1
    lines = [headings, *rows, *([total] if total else [])]
    numbers = sum(gap + max(len(cells[column]) for cells in lines) for column in range(1, len(headings)))
    room = max(width - numbers, 8)
    names = distinct([cells[0] for cells in rows], room)
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column(headings[0], overflow="ellipsis", no_wrap=True, max_width=room)
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, cells in zip(names, rows, strict=True):
        table.add_row(*map(Text, [name, *cells[1:]]))
    if total:
        table.add_row(*map(Text, total), style="bold")
    return table


def _group_cells(group: GroupTotals) -> list[str]:
    return [
        harmless(group.group),
        f"{group.clients:,}",
        decimal(group.mean_bits),
        joules(group.energy_j),
        seconds(group.time_s),
        byte_count(group.downlink_bytes),
        byte_count(group.uplink_bytes),
        memory(group.memory_bytes),
    ]


def _cost_lines(summary: Summary) -> list[tuple[str, str]]:
    total = summary.total
    parts = [("compute", total.energy_compute_j), ("movement", total.energy_movement_j), ("radio", total.energy_radio_j)]
    split = ", ".join(f"{name} {joules(energy)}" for name, energy in parts)
    tables = ", ".join(f"{name} {joules(energy)}" for name, energy in summary.energy_tables_j.items())
    return [
        ("Energy", f"{joules(total.energy_j)} by the bits of the weights: {split}"),
        ("", f"{joules(total.energy_operands_j)} by both operands: a float activation makes a float MAC"),
        ("", f"under each energy table: {tables}"),
        (
            "Time",
            f"{seconds(summary.simulated_time_s)} simulated, from begin to end on the devices; {seconds(summary.wall_s)} here",
        ),
        ("Costs", origins(summary.sources) or "none"),
        *([("Batched", batched_words(summary.batched, summary.total.attempts))] if summary.batched else []),
        *([("Samples", filtered_words(total.backward_samples, total.spared_samples))] if total.spared_samples else []),
        *([("Layout", LAYOUT_WORDS)] if summary.channels_last else []),
        *([("Compute", HALF_WORDS)] if summary.compute != "float32" else []),
    ]


def origins(sources: dict[str, dict[str, int]]) -> str:
    """Say which costs are measured, modelled or constant: `energy, time modelled; bytes measured`."""
    named: dict[str, list[str]] = {}
    for cost, counts in sources.items():
        named.setdefault(" and ".join(sorted(counts, key=lambda source: -counts[source])), []).append(cost)
    return "; ".join(f"{', '.join(costs)} {source}" for source, costs in named.items() if source)


def _cause_lines(causes: Sequence[Cause]) -> list[tuple[str, str]]:
    lines = []
    for cause in causes[:MOST_CAUSES]:
        noun = "client" if len(cause.clients) == 1 else "clients"
        who = f"{counted(cause.count, 'attempt')} of {noun} {ranges(cause.clients, 4)}"
        reason = textwrap.shorten(cause.reason, LONGEST_REASON, placeholder=" ...") or "no reason given"
        lines.append((cause.status.capitalize(), f"{who}: {reason}"))
    if len(causes) > MOST_CAUSES:
        lines.append(("", f"and {counted(len(causes) - MOST_CAUSES, 'more cause')}: see the report"))
    return lines
