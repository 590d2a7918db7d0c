"""The arms of a comparison: how each is drawn, the chips that show and hide it, its settings and its runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fedapt.benchmark.comparison import Arm, Comparison, seed_of
from fedapt.report.drawing import PALETTE
from fedapt.report.elements import Link, Row, card, table, text
from fedapt.report.figures import byte_count, counted, joules, percent, seconds

# Colours repeat after eight arms, the pattern of the line or the shape of the point then tells them apart.
DASHES = ["solid", "dash", "dot", "dashdot"]
STROKES = {"solid": "", "dash": "6 3", "dot": "1.5 3", "dashdot": "7 3 1.5 3"}
SHAPES = ["circle", "square", "diamond", "triangle-up"]


@dataclass(frozen=True)
class Style:
    """How an arm is drawn in every plot of the page; number: its place in the comparison."""

    number: int

    @property
    def colour(self) -> str:
        """Return its colour."""
        return PALETTE[self.number % len(PALETTE)]

    @property
    def dash(self) -> str:
        """Return the pattern of its line."""
        return DASHES[self.number // len(PALETTE) % len(DASHES)]

    @property
    def shape(self) -> str:
        """Return the shape of its points."""
        return SHAPES[self.number // len(PALETTE) % len(SHAPES)]


def styled_arms(comparison: Comparison) -> Iterator[tuple[Style, Arm]]:
    """Yield each arm with how it is drawn."""
    for number, arm in enumerate(comparison.arms):
        yield Style(number), arm


def chips(comparison: Comparison) -> str:
    """Return the legend of all curves and points, which stays in view: a chip for each arm, pressed while it is shown."""
    buttons = "".join(
        f"<button class='chip' data-arm='{style.number}' aria-pressed='true'>"
        f"<svg width='22' height='10' aria-hidden='true'><line x1='1' y1='5' x2='21' y2='5'"
        f" stroke='{style.colour}' stroke-width='3'"
        f" stroke-dasharray='{STROKES[style.dash]}'/></svg><span>{text(arm.name)}</span></button>"
        for style, arm in styled_arms(comparison)
    )
    everything = "<button data-arms='all'>show all</button><button data-arms='none'>hide all</button>"
    few = everything if len(comparison.arms) > 2 else ""
    return f"<section class='card arms'><div class='chips'>{few}{buttons}</div></section>"


def arm_cards(comparison: Comparison, folder: Path) -> list[str]:
    """Return the cards of what differs between the arms, what is missing, and the runs with links from a page in `folder`."""
    axes = list(dict.fromkeys(axis for arm in comparison.arms for axis in arm.settings))
    settings = [[arm.name, *(arm.settings.get(axis, "-") for axis in axes)] for arm in comparison.arms]
    missing = [[arm.name, reason] for arm in comparison.arms for reason in arm.missing]
    note = "The settings that are not the same for all arms; each run's report has its whole scenario."
    cards = [card("What differs", note, table(["arm", *axes], settings), wide=True)]
    if missing:
        note = f"{counted(len(missing), 'run')} without a result; the means are of the others."
        cards.append(card("Failed and missing", note, table(["arm", "seed and reason"], missing), wide=True))
    heads = ["arm", "seed", "accuracy", "energy", "bytes", "time", "rounds", "report"]
    lines = [_run_line(arm, number, folder) for arm in comparison.arms for number in range(len(arm.runs))]
    body = f"<details><summary>{counted(len(lines), 'run')}</summary>{table(heads, lines, numbers_from=1)}</details>"
    return [*cards, card("Runs", "One for each arm and seed.", body, wide=True)]


def _run_line(arm: Arm, number: int, folder: Path) -> Row:
    run = arm.runs[number]
    total = run.summary["total"]
    where = os.path.relpath((run.path / "report.html").resolve(), folder.resolve())
    cells = [
        arm.name,
        str(seed_of(run)),
        percent(run.summary["accuracy"]),
        joules(total["energy_j"]),
        byte_count(total["downlink_bytes"] + total["uplink_bytes"]),
        seconds(run.summary["simulated_time_s"]),
        f"{run.summary['rounds']:,}",
        Link(run.path.name, quote(Path(where).as_posix())),
    ]
    return Row(cells, "")
