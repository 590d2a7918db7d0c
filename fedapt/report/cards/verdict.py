"""Who won and who lost: the table of results, and each arm's difference to its baseline with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedapt.benchmark.comparison import Comparison
from fedapt.benchmark.measures import MEASURES, TO_TARGET, Measure
from fedapt.report.drawing import GREEN, GREY, RED, Plot, View, name_axis, styled, texts, titled
from fedapt.report.elements import Cell, card, plot_card, table
from fedapt.report.figures import BYTES, COUNT, ENERGY, MEMORY, MISSING, TIME, Units, counted, decimal, fitting_unit, percent

LABELS = {
    "accuracy": "accuracy",
    "accuracy_late": "mean of the last five",
    "accuracy_p10": "p10 of clients",
    "rounds_to_target": "rounds to target",
    "seconds_to_target": "time to target",
    "joules_to_target": "energy to target",
    "bytes_to_target": "bytes to target",
    "update_macs": "MACs a round",
    "update_energy_j": "energy a round",
    "update_bytes": "bytes a round",
    "memory_bytes": "peak memory",
    "energy_j": "energy",
    "time_s": "time",
    "traffic_bytes": "bytes",
}
UNITS: dict[str, Units] = {
    "update_macs": COUNT,
    "update_energy_j": ENERGY,
    "update_bytes": BYTES,
    "memory_bytes": MEMORY,
    "energy_j": ENERGY,
    "joules_to_target": ENERGY,
    "time_s": TIME,
    "seconds_to_target": TIME,
    "traffic_bytes": BYTES,
    "bytes_to_target": BYTES,
}
BETTER, WORSE, UNCLEAR = "better", "worse", "unclear"
VERDICTS = {BETTER: (GREEN, "triangle-up"), WORSE: (RED, "triangle-down"), UNCLEAR: (GREY, "circle")}
Record = Mapping[str, Any]


def verdict_cards(comparison: Comparison) -> list[str]:
    """Return the cards of the results and of the differences."""
    rows: list[Record] = comparison.table.to_dict("records")
    note = (
        "Mean over seeds ± standard deviation; the best in bold. Below: the difference to the baseline, paired by seed, with its"
        " 95 % interval, p, and p corrected over the arms (Holm). To target: over the seeds that reached it, the others left out."
        " A round: of one client, the mean over the updates that were aggregated."
    )
    shown = [name for name in MEASURES if any(_known(row[name]) for row in rows)]
    heads = ["arm", "seeds", *(LABELS[name] for name in shown)]
    lines = [[_name(row), _seeds(row), *(_cell(row, MEASURES[name], rows) for name in shown)] for row in rows]
    cards = [card("Results", note, table(heads, lines, numbers_from=1), wide=True)]
    compared = [name for name in shown if any(_known(row[f"{name}_diff"]) for row in rows)]
    if compared:
        note = (
            "Each arm less its baseline, mean over the seeds that both have; the bars are the 95 % interval of the paired"
            " difference, and where it leaves out zero, the arm is called better or worse."
        )
        cards.append(plot_card("differences", "Difference to the baseline", note, differences(rows, compared), wide=True))
    return cards


def verdict(row: Record, measure: Measure) -> str:
    """Say whether an arm is better or worse than its baseline: its interval leaves out zero."""
    low, high = row[f"{measure.name}_low"], row[f"{measure.name}_high"]
    if not (_known(low) and _known(high)) or low <= 0 <= high:
        return UNCLEAR
    return BETTER if (low > 0) == measure.rising else WORSE


def difference(value: float, measure: Measure) -> str:
    """Write a difference with its sign: of accuracies in points."""
    if measure.write is percent:
        return f"{100 * value:+.1f} points"
    return ("-" if value < 0 else "+") + measure.write(abs(value))


def differences(rows: list[Record], names: list[str]) -> Plot:
    """Return the differences to the baseline, an arm a line, with a view for each measure."""
    import plotly.graph_objects as go

    drawn = {name: _traces([row for row in rows if _known(row[f"{name}_diff"])], MEASURES[name]) for name in names}
    first, unit = drawn[names[0]]
    figure = go.Figure([go.Scatter(**trace) for trace in first])
    compared = [str(row["arm"]) for row in rows if any(_known(row[f"{name}_diff"]) for name in names)]
    name_axis(figure, texts(compared))
    figure.update_xaxes(title=titled(f"difference in {LABELS[names[0]]}", unit))
    figure.update_layout(showlegend=True)
    views = [
        View(LABELS[name], traces, {"xaxis": {"title": titled(f"difference in {LABELS[name]}", unit)}})
        for name, (traces, unit) in drawn.items()
    ]
    styled(figure, 130 + 30 * len(compared)).update_xaxes(zeroline=True, zerolinecolor="#7d8594", zerolinewidth=1.5)
    return Plot(figure, views)


def _traces(rows: list[Record], measure: Measure) -> tuple[list[dict[str, Any]], str]:
    """Return a trace for each verdict, and the unit of the axis."""
    name = measure.name
    ends = [abs(float(row[f"{name}{end}"])) for row in rows for end in ("_diff", "_low", "_high") if _known(row[f"{name}{end}"])]
    unit, size = ("points", 0.01) if measure.write is percent else ("", 1.0)
    if name in UNITS:
        unit, size = fitting_unit(max(ends), UNITS[name])
    traces = []
    for said, (colour, symbol) in VERDICTS.items():
        those = [row for row in rows if verdict(row, measure) == said]
        middle = np.array([row[f"{name}_diff"] for row in those], dtype=float)
        low, high = (np.array([row[f"{name}{end}"] for row in those], dtype=float) for end in ("_low", "_high"))
        traces.append(
            {
                "x": (middle / size).tolist(),
                "y": texts([row["arm"] for row in those]),
                "error_x": {
                    "array": ((high - middle) / size).tolist(),
                    "arrayminus": ((middle - low) / size).tolist(),
                    "color": colour,
                    "thickness": 1.5,
                    "width": 4,
                },
                "mode": "markers",
                "name": said,
                "marker": {"color": colour, "size": 10, "symbol": symbol},
                "customdata": [_hover(row, measure) for row in those],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )
    return traces, unit


def _hover(row: Record, measure: Measure) -> str:
    own, less = texts([row["arm"], row["against"]])
    return "<br>".join([own, f"less {less}:", *_beside(row, measure)])


def _beside(row: Record, measure: Measure) -> list[str]:
    """Return the difference to the baseline with its interval, and how likely chance alone is to make it."""
    name = measure.name
    said = difference(float(row[f"{name}_diff"]), measure)
    if _known(row[f"{name}_low"]):
        ends = [difference(float(row[f"{name}{end}"]), measure).removesuffix(" points") for end in ("_low", "_high")]
        said += f" ({ends[0]} to {ends[1]})"
    if not _known(row[f"{name}_p"]):
        return [said]
    corrected = f" (Holm {_p(row[f'{name}_p_holm'])})" if _known(row[f"{name}_p_holm"]) else ""
    return [said, f"p {_p(row[f'{name}_p'])}{corrected}"]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else decimal(float(value), 3)


def _cell(row: Record, measure: Measure, rows: list[Record]) -> Cell:
    name = measure.name
    if not _known(row[name]):
        return Cell("not reached" if name in TO_TARGET and row["runs"] else MISSING, "soft")
    said = measure.write(float(row[name]))
    if _known(row[f"{name}_sd"]):
        said += f" ± {measure.write(float(row[f'{name}_sd']))}"
    if row[f"{name}_n"] < row["runs"]:
        said += f" ({int(row[f'{name}_n'])} of {int(row['runs'])})"
    notes = _beside(row, measure) if _known(row[f"{name}_diff"]) else []
    return Cell(said, "best" if _is_best(row, measure, rows) else "", notes, verdict(row, measure))


def _is_best(row: Record, measure: Measure, rows: list[Record]) -> bool:
    """Return whether no arm is better; one that missed the target with some of its seeds is not compared."""
    name = measure.name
    values = [float(other[name]) for other in rows if _known(other[name]) and other[f"{name}_n"] == other["runs"]]
    whole = row[f"{name}_n"] == row["runs"]
    return bool(whole and len(values) > 1 and row[name] == (max if measure.rising else min)(values))


def _name(row: Record) -> Cell:
    return Cell(row["arm"], "", ["baseline"] if row["against"] == row["arm"] else [])


def _seeds(row: Record) -> Cell:
    lost = [counted(int(row[key]), "run") + f" {key}" for key in ("missing", "unfinished") if row[key]]
    return Cell(int(row["runs"]), "", lost)


def _known(value: Any) -> bool:
    return value is not None and value == value
