"""How many bits the weights had: the mean over rounds, and a map by layer and round, of all clients or of one group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fedapt.report.drawing import BLUE, Plot, View, round_step, styled, texts
from fedapt.report.elements import plot_card

if TYPE_CHECKING:
    import numpy as np
    import pandas

    from fedapt.results import Run

MOST_CELLS = 60_000
ALL = "all groups"


def bit_cards(run: Run) -> list[str]:
    """Return the cards of the bits; none where no update had any."""
    cards = []
    if not run.rounds.empty and run.rounds["mean_bits"].notna().any():
        note = "Over the layers and the clients whose updates were aggregated."
        cards.append(plot_card("bits", "Mean bits", note, mean_bits(run.rounds)))
    if not run.layer_bits().empty:
        note = "What the clients really held, on average; the federation's wish is in the hover text."
        cards.append(plot_card("layers", "Bits by layer", note, layer_bits(run)))
    return cards


def mean_bits(rounds: pandas.DataFrame) -> Plot:
    """Return the mean bits of the updates over rounds."""
    import plotly.graph_objects as go

    line = go.Scatter(x=rounds["round"] + 1, y=rounds["mean_bits"], line={"color": BLUE, "width": 2.5})
    line.hovertemplate = "after round %{x}: %{y:.2f} bits<extra></extra>"
    figure = go.Figure(line)
    figure.update_xaxes(title="rounds completed", dtick=round_step(len(rounds)))
    figure.update_yaxes(rangemode="tozero", title="bits")
    return Plot(styled(figure, 300))


def layer_bits(run: Run) -> Plot:
    """Return a map of the mean bits by layer and round, with a view for each group; long runs show every n-th round."""
    import plotly.graph_objects as go

    groups = [str(group["group"]) for group in run.summary["groups"] if group["updates"]]
    every = run.layer_bits()
    rounds = every.index[:: max(1, -(-every.size * (len(groups) + 1) // MOST_CELLS))]
    maps = {ALL: _map(every, rounds)}
    if len(groups) > 1:
        # A group may take no part in a round: its cells are empty.
        maps |= {group: _map(run.layer_bits(group), rounds) for group in groups}
    wishes = run.rounds.set_index("round").reindex(index=rounds, columns=[f"bits.{layer}" for layer in run.layers])
    lowest, highest = float(every.min().min()), float(every.max().max())
    for bits in maps.values():
        if bits.notna().any(axis=None):
            lowest, highest = min(lowest, float(bits.min().min())), max(highest, float(bits.max().max()))
    figure = go.Figure(
        go.Heatmap(
            x=rounds + 1,
            y=texts(run.layers),
            z=_lines(maps[ALL]),
            # One scale for all groups, so that colours can be compared between the views.
            zmin=lowest,
            zmax=max(highest, lowest + 1),
            customdata=_lines(wishes),
            hovertemplate="%{y}, round %{x}<br>%{z:.1f} bits on average<br>%{customdata:.0f} wished for next<extra></extra>",
            hoverongaps=False,
            colorscale="Viridis",
            colorbar={"thickness": 10, "outlinewidth": 0, "title": {"text": "bits", "side": "top"}},
        )
    )
    figure.update_xaxes(title="rounds completed", showgrid=False, dtick=round_step(len(run.rounds)))
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    views = [View(name, [{"z": _lines(bits)}]) for name, bits in maps.items()] if len(maps) > 1 else []
    return Plot(styled(figure, 150 + min(22 * len(run.layers), 700)), views)


def _map(bits: pandas.DataFrame, rounds: pandas.Index[int]) -> pandas.DataFrame:
    return bits.reindex(index=rounds).astype(float)


def _lines(bits: pandas.DataFrame) -> np.ndarray:
    """Return one line a layer and one column a round; three digits are enough for a colour."""
    lines: np.ndarray = bits.to_numpy(float).T.round(2)
    return lines
