"""The parts of a page: tiles, cards, tables and plots. Everything that is not HTML made here is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fedapt.report.drawing import Plot
from fedapt.report.figures import harmless

MOST_BUTTONS = 6
# Names beyond this many letters get a wider column.
LONG = 24
MOST_LINES = 40


@dataclass(frozen=True)
class Cell:
    """A cell of a table with a look of its own (`best`, `soft`, `better`, `worse`), and notes below with another."""

    value: object
    look: str = ""
    notes: Sequence[str] = ()
    note_look: str = ""


@dataclass(frozen=True)
class Link:
    """A cell that leads to another page; target: quoted as a URL."""

    value: object
    target: str


@dataclass(frozen=True)
class Row:
    """A line of a table with a class of its own: `total` or `soft`."""

    cells: Sequence[object]
    look: str


def text(value: object) -> str:
    """Return a value as text of a page."""
    return escape(harmless(str(value)))


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Return boxes of (label, value, note)."""
    boxes = (
        f"<div class='tile'><span>{text(label)}</span><b>{text(value)}</b><span>{text(note)}</span></div>"
        for label, value, note in facts
    )
    return f"<div class='tiles'>{''.join(boxes)}</div>"


def table(heads: Sequence[str], lines: Sequence[Sequence[object] | Row], numbers_from: int = 99) -> str:
    """Return a table of text; the columns from `numbers_from` are set as numbers; a long one scrolls."""
    rows = (
        f"<tr class='{line.look}'>{_cells(line.cells, 'td', numbers_from)}</tr>"
        if isinstance(line, Row)
        else f"<tr>{_cells(line, 'td', numbers_from)}</tr>"
        for line in lines
    )
    look = "scroll long" if len(lines) > MOST_LINES else "scroll"
    return f"<div class='{look}'><table><tr>{_cells(heads, 'th', numbers_from)}</tr>{''.join(rows)}</table></div>"


def _cells(line: Sequence[object], tag: str, numbers_from: int) -> str:
    html = []
    for column, cell in enumerate(line):
        look, content = "number" if column >= numbers_from else "name", text(cell)
        if not column and len(content) > LONG:
            look += " wordy"
        if isinstance(cell, Link):
            content = f"<a href='{escape(cell.target)}'>{text(cell.value)}</a>"
        elif isinstance(cell, Cell):
            look = f"{look} {cell.look}".strip()
            content = text(cell.value) + "".join(f"<small class='{cell.note_look}'>{text(note)}</small>" for note in cell.notes)
        html.append(f"<{tag} class='{look}'>{content}</{tag}>")
    return "".join(html)


def plot_card(name: str, title: str, note: str, plot: Plot, wide: bool = False) -> str:
    """Return a box with a plot, and a button for each of its views, or a list where they are many."""
    labels = [text(view.label) for view in plot.views]
    if len(labels) > MOST_BUTTONS:
        options = "".join(f"<option value='{index}'>{label}</option>" for index, label in enumerate(labels))
        views = f"<div class='views'><select class='view' aria-label='{text(title)}: view'>{options}</select></div>"
    else:
        buttons = (
            f"<button data-view='{index}' aria-pressed='{'false' if index else 'true'}'>{label}</button>"
            for index, label in enumerate(labels)
        )
        views = f"<div class='views'>{''.join(buttons)}</div>" if labels else ""
    data = f"<script type='application/json'>{plot.as_json()}</script>"
    height = int(plot.figure.layout.height)
    drawn = f"{views}<div class='plot' id='plot-{name}' style='height:{height}px'></div>{data}"
    return card(title, text(note), drawn, wide)


def card(title: str, note: str, content: str, wide: bool = False) -> str:
    """Return a box; `note` and `content` are HTML."""
    return f"<section class='card{' wide' if wide else ''}'><h2>{escape(title)}</h2><p>{note}</p>{content}</section>"
