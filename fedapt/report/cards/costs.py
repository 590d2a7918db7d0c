"""Where the joules, seconds and bytes went: by group, and by what they were spent on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapt.report.drawing import BLUE, GREEN, PARTS, VIOLET, Plot, View, bars, titled
from fedapt.report.elements import Row, card, plot_card, table
from fedapt.report.figures import BYTES, ENERGY, TIME, Units, byte_count, decimal, joules, memory, percent, seconds, written

if TYPE_CHECKING:
    from fedapt.results import Run

Groups = Sequence[dict[str, Any]]
HEADS = ["group", "clients", "updates", "accuracy", "mean bits", "energy", "time", "down", "up", "peak memory"]


def cost_cards(run: Run) -> list[str]:
    """Return the cards of what was spent."""
    groups, summary = run.summary["groups"], run.summary
    note = "Sums over the run; bits are means and memory is the peak."
    cards = [card("Cost by group", note, table(HEADS, group_lines(summary), numbers_from=1), wide=True)]
    if not groups:
        return cards
    note = f"By what it was spent on: {sources(summary, 'energy')}."
    tables = "The same work under each table: a saving that changes its sign between them is none."
    worked = f"What the devices worked, one after another: {sources(summary, 'time')}."
    return [
        *cards,
        plot_card("energy", "Where the joules went", note, energy(groups)),
        plot_card("time", "Time by group", worked, time(groups)),
        plot_card("traffic", "Bytes by group", f"Received and sent: {sources(summary, 'bytes')}.", traffic(groups)),
        plot_card("tables", "Energy under each table", tables, energy_tables(summary["energy_tables_j"])),
    ]


def sources(summary: dict[str, Any], cost: str) -> str:
    """Say where a cost comes from, the most frequent origin first."""
    counts: dict[str, int] = summary["sources"][cost]
    return " and ".join(sorted(counts, key=lambda source: -counts[source])) or "nothing was spent"


def group_lines(summary: dict[str, Any]) -> list[Row]:
    """Return the lines of the table of groups, the total last."""
    lines = []
    for group in [*summary["groups"], summary["total"]]:
        cells = [
            group["group"],
            f"{group['clients']:,}",
            f"{group['updates']:,} of {group['attempts']:,}",
            percent(group["accuracy"]),
            decimal(group["mean_bits"], 2),
            joules(group["energy_j"]),
            seconds(group["time_s"]),
            byte_count(group["downlink_bytes"]),
            byte_count(group["uplink_bytes"]),
            memory(group["memory_bytes"]),
        ]
        lines.append(Row(cells, "total" if group is summary["total"] else ""))
    return lines


def energy(groups: Groups) -> Plot:
    """Return the energy of each group, split by what it was spent on."""
    return split(groups, {name: [group[f"energy_{name}_j"] for group in groups] for name in PARTS}, ENERGY)


def time(groups: Groups) -> Plot:
    """Return the time that each group's devices worked, split likewise."""
    return split(groups, {name: [group[f"time_{name}_s"] for group in groups] for name in PARTS}, TIME)


def split(groups: Groups, columns: dict[str, list[float]], units: Units) -> Plot:
    """Return stacked bars of parts, with views for each group's total, its shares, and the mean of one of its updates."""
    totals = np.array(list(columns.values()), dtype=float)
    updates = np.array([max(group["updates"], 1) for group in groups], dtype=float)
    shares = totals / np.maximum(totals.sum(0), np.finfo(float).tiny)
    figure = bars([group["group"] for group in groups], columns, list(PARTS.values()), units, stacked=True)
    each = bars([group["group"] for group in groups], _columns(totals / updates), list(PARTS.values()), units, stacked=True)
    drawn = [part for part, values in zip(PARTS, totals, strict=True) if values.any()]
    hover = [
        [
            f"{name}<br>{part} {percent(share)}: {written(value, units)}"
            for name, share, value in zip(figure.data[0].y, shares[index], totals[index], strict=True)
        ]
        for index, part in enumerate(PARTS)
        if part in drawn
    ]
    rows = [index for index, part in enumerate(PARTS) if part in drawn]
    return Plot(
        figure,
        [
            View("total"),
            View(
                "shares",
                [{"x": shares[row], "customdata": lines} for row, lines in zip(rows, hover, strict=True)],
                {"xaxis": {"title": titled("share"), "tickformat": ".0%"}},
            ),
            View(
                "an update",
                [{"x": bar.x, "customdata": bar.customdata} for bar in each.data],
                {"xaxis": {"title": titled(f"{each.layout.xaxis.title.text} for each update that was aggregated")}},
            ),
        ],
    )


def _columns(values: np.ndarray) -> dict[str, list[float]]:
    return dict(zip(PARTS, values.tolist(), strict=True))


def energy_tables(tables: dict[str, float]) -> Plot:
    """Return the energy of the whole run under each energy table."""
    figure = bars(list(tables), {"energy": list(tables.values())}, [BLUE], ENERGY, stacked=True)
    figure.update_traces(text=[joules(value) for value in tables.values()], textposition="auto")
    return Plot(figure.update_layout(showlegend=False))


def traffic(groups: Groups) -> Plot:
    """Return the bytes that each group received and sent."""
    columns = {"down": [group["downlink_bytes"] for group in groups], "up": [group["uplink_bytes"] for group in groups]}
    return Plot(bars([group["group"] for group in groups], columns, [GREEN, VIOLET], BYTES, stacked=False))
