"""What was chosen and why, and which attempts did not become part of the model: over rounds, and by cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedapt.report.drawing import AMBER, GREY, RED, VIOLET, Plot, View, round_step, styled
from fedapt.report.elements import card, plot_card, table
from fedapt.report.figures import counted, percent, ranges

if TYPE_CHECKING:
    import pandas

    from fedapt.results import Run

MOST_CAUSES = 100
MOST_CHOICES = 12
MOST_BARS = 250
AGGREGATED = "ok"
STATUSES = {"dropped": AMBER, "late": "#5aa9c8", "refused": VIOLET, "rejected": "#c95fa6", "failed": RED}
MEANINGS = "Dropped: the client went away. Late: after the deadline. Refused: too large for its device. Rejected: not admitted."


def choice_cards(run: Run) -> list[str]:
    """Return the card of what policies and budgets chose; none if nothing was chosen."""
    lines = run.choices(MOST_CHOICES)
    if not lines:
        return []
    note = "What policies asked for, and what each client's budget made of it; all of them are in ledger.parquet, column choice."
    rows = table(["group", "choice", "updates"], [[group, choice, f"{count:,}"] for group, choice, count in lines])
    return [card("What was chosen, and why", note, rows, wide=True)]


def trouble_cards(run: Run) -> list[str]:
    """Return the cards of dropouts, refusals and failures."""
    causes = run.summary["causes"]
    attempts = sum(run.summary["statuses"].values())
    if not causes:
        note = f"Each of {counted(attempts, 'attempt')} became part of the model." if attempts else "Nothing was attempted."
        return [card("Dropouts and failures", note, "", wide=True)]
    lines = [
        [of["status"], f"{of['count']:,}", percent(of["count"] / attempts), ranges(of["clients"], 12), of["reason"]]
        for of in causes[:MOST_CAUSES]
    ]
    note = "Attempts that did not become part of the model, by cause."
    if len(causes) > MOST_CAUSES:
        note += f" {counted(len(causes) - MOST_CAUSES, 'more cause')}: see ledger.parquet."
    rows = table(["status", "attempts", "of all", "clients", "cause"], lines)
    counts = run.ledger_columns(["round", "status"]).value_counts(["round", "status"]).unstack(fill_value=0).sort_index()
    return [
        plot_card("dropouts", "Dropouts and failures over rounds", MEANINGS, dropouts(counts), wide=True),
        card("Dropouts and failures by cause", note, rows, wide=True),
    ]


def dropouts(counts: pandas.DataFrame) -> Plot:
    """Return the attempts of each round (index) by status (columns): those that were lost, or all; long runs in equal steps."""
    import plotly.graph_objects as go

    step = -(-len(counts) // MOST_BARS)
    counts = counts.groupby(counts.index // step * step).sum()
    rounds = counts.index + 1
    spans = [str(first) if step == 1 else f"{first}-{first + step - 1}" for first in rounds]
    figure = go.Figure()
    drawn = [status for status in (AGGREGATED, *STATUSES) if status in counts]
    for status in drawn:
        figure.add_bar(
            x=rounds + (step - 1) / 2,
            y=counts[status],
            name="aggregated" if status == AGGREGATED else status,
            marker={"color": STATUSES.get(status, GREY), "line_width": 0, "opacity": 1 if status in STATUSES else 0.35},
            customdata=spans,
            hovertemplate=f"round %{{customdata}}<br>%{{y}} {'aggregated' if status == AGGREGATED else status}<extra></extra>",
            visible=status in STATUSES,
        )
    figure.update_layout(barmode="stack", bargap=0.2, showlegend=True)
    figure.update_xaxes(title="round", dtick=round_step(len(counts)))
    lost = counts.drop(columns=AGGREGATED, errors="ignore").sum(axis=1).max()
    figure.update_yaxes(title="attempts", rangemode="tozero", dtick=1 if lost < 8 else None)
    views = [View("lost"), View("all attempts", [{"visible": True}] * len(drawn), {"yaxis": {"dtick": None}})]
    return Plot(styled(figure, 320), views)
