"""What a run reached by when: accuracy against rounds, time, energy and bytes, and the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedapt.report.drawing import AMBER, BLUE, Plot, axis_view, round_step, styled
from fedapt.report.elements import plot_card
from fedapt.report.figures import BYTES, ENERGY, TIME, Units, byte_count, joules, percent, seconds

if TYPE_CHECKING:
    import pandas

    from fedapt.results import Run

# What an accuracy may be held against: how it is called, and its units.
AXES: dict[str, tuple[str, Units | None]] = {
    "rounds": ("rounds completed", None),
    "time": ("simulated time, waiting included", TIME),
    "energy": ("energy of all clients", ENERGY),
    "bytes": ("bytes moved", BYTES),
}


def progress_cards(run: Run) -> list[str]:
    """Return the cards of a run's curves; none without a round."""
    if run.rounds.empty:
        return []
    note = "Of the global model on the test set, against what had been spent by then."
    losses = "Of the global model on the test set, and of the clients while they train."
    return [
        plot_card("accuracy", "Accuracy", note, accuracy(run.rounds)),
        plot_card("loss", "Loss", losses, loss(run.rounds)),
    ]


def spent(rounds: pandas.DataFrame) -> pandas.DataFrame:
    """Return what was spent by the end of each round: one column for each of AXES."""
    return rounds.assign(
        rounds=rounds["round"] + 1,
        time=rounds["clock_s"],
        energy=rounds["energy_j"].cumsum(),
        bytes=(rounds["downlink_bytes"] + rounds["uplink_bytes"]).cumsum(),
    )[[*AXES]]


def accuracy(rounds: pandas.DataFrame) -> Plot:
    """Return the global accuracy, against rounds or, at a button, against what had been spent by then."""
    import plotly.graph_objects as go

    scored = rounds["accuracy"].notna()
    by, reached = spent(rounds)[scored], rounds["accuracy"][scored]
    hover = [
        f"after round {number}: {percent(value)}<br>{seconds(time)}, {joules(energy)}, {byte_count(count)}"
        for value, number, time, energy, count in zip(reached, *(by[name] for name in AXES), strict=True)
    ]
    figure = go.Figure(
        go.Scatter(
            x=by["rounds"],
            y=reached,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
            mode="lines+markers" if len(rounds) <= 60 else "lines",
            line={"color": BLUE, "width": 2.5},
        )
    )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    views = [axis_view(f"by {name}", [by[name]], title, units, len(rounds)) for name, (title, units) in AXES.items()]
    figure.update_xaxes(title=AXES["rounds"][0], dtick=round_step(len(rounds)))
    return Plot(styled(figure, 320), views)


def loss(rounds: pandas.DataFrame) -> Plot:
    """Return the global model's test loss and the clients' training loss over rounds."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for column, name, colour in (("loss", "test, global model", BLUE), ("train_loss", "training, mean of clients", AMBER)):
        line = {"color": colour, "width": 2.5}
        figure.add_scatter(x=rounds["round"] + 1, y=rounds[column], name=name, line=line, connectgaps=True)
    figure.update_layout(hovermode="x unified")
    figure.update_xaxes(title="rounds completed", dtick=round_step(len(rounds)))
    figure.update_yaxes(rangemode="tozero", hoverformat=".3f")
    return Plot(styled(figure, 356))
