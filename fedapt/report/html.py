"""The report: one HTML page in the run folder, with plots, that needs no network.

plotly.js is inlined (4.8 MB, 1.5 MB once compressed on the way): a page with a script beside it breaks when it is mailed or
moved alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedapt.errors import DamagedData, SetupError
from fedapt.record.files import write_whole
from fedapt.report import plots
from fedapt.report.figures import byte_count, counted, decimal, harmless, joules, memory, percent, ranges, seconds
from fedapt.report.page import page
from fedapt.results import Run, read_run

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_CAUSES = 100
MOST_CHOICES = 12
CONFIG = {"responsive": True, "displaylogo": False, "modeBarButtons": [["toImage"]]}
MEANINGS = {
    "measured": "taken from the real messages or from a sensor",
    "modelled": "computed from the layers' shapes and the device profile; no device was measured",
    "constant": "a fixed figure from the device profile",
}


def write_report(run_path: Path) -> Path:
    """Write `report.html` into a run folder, finished or not, and return its path.

    Raises DamagedData if a file of the run cannot be read or the page cannot be written, SetupError if plotly is missing.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise SetupError("the report needs plotly, which is not installed: `pip install 'fedapt[sim]'`") from None
    run = read_run(run_path)
    name = run_path.resolve().name
    cards = "\n".join([*_curve_cards(run), *_cost_cards(run), *_choice_cards(run), *_trouble_cards(run), *_origin_cards(run)])
    body = f"{_heading(run, name)}\n{_tiles(run)}\n<div class='cards'>\n{cards}\n</div>"
    path = run_path / "report.html"
    write_whole(path, page(name, get_plotlyjs(), body).encode())
    return path


def _text(value: object) -> str:
    return escape(harmless(str(value)))


def _heading(run: Run, name: str) -> str:
    threads = counted(run.environment.get("threads") or 1, "thread")
    facts = (
        f"fedapt {run.environment.get('fedapt')}, torch {run.environment.get('torch')}, {threads}, {run.environment.get('cpu')}"
    )
    done, planned = run.summary["rounds"], _planned_rounds(run)
    notice = "" if done == planned else f"<div class='notice'>This run stopped after {done} of {counted(planned, 'round')}.</div>"
    if changed := run.environment.get("inexact"):
        notice += f"<div class='notice'>This run was resumed, and not to the same bits: {_text('; '.join(changed))}.</div>"
    return f"<h1>{_text(name)}</h1><p>{_text(facts)}</p>{notice}"


def _planned_rounds(run: Run) -> int:
    """Return how many rounds the scenario asks for."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return int(YAML(typ="safe").load(run.scenario)["rounds"])
    except (YAMLError, KeyError, TypeError, ValueError) as error:
        path = run.path / "scenario.yaml"
        raise DamagedData(f"{path} is not the scenario of a run ({type(error).__name__}). Restore it from a copy.") from None


def _tiles(run: Run) -> str:
    summary, total = run.summary, run.summary["total"]
    spread = summary["client_accuracy"]
    statuses = summary["statuses"]
    lost = sum(count for status, count in statuses.items() if status != "ok")
    by_operands = joules(total["energy_operands_j"])
    best = f"best {percent(summary['best_accuracy'])} after {counted((summary['best_round'] or 0) + 1, 'round')}"
    tiles = [
        ("global accuracy", percent(summary["accuracy"]), best if summary["rounds"] else "no round was completed"),
        ("energy of all clients", joules(total["energy_j"]), f"{_sources(summary, 'energy')}; {by_operands} by both operands"),
        ("bytes moved", byte_count(total["downlink_bytes"] + total["uplink_bytes"]), _sources(summary, "bytes")),
        ("simulated time", seconds(summary["simulated_time_s"]), f"{seconds(summary['wall_s'])} on the machine that ran it"),
        ("peak memory of a client", memory(total["memory_bytes"]), _sources(summary, "memory")),
        ("mean bits of an update", decimal(total["mean_bits"], 2), f"{counted(summary['rounds'], 'round')}"),
        ("updates aggregated", f"{total['updates']:,}", f"{counted(lost, 'attempt')} refused or failed"),
    ]
    if spread:
        low, high = percent(spread["p10"]), percent(spread["p90"])
        tiles.insert(1, ("median client's accuracy", percent(spread["median"]), f"p10 {low}, p90 {high}"))
    html = "".join(
        f"<div class='tile'><span>{_text(label)}</span><b>{_text(value)}</b><span>{_text(note)}</span></div>"
        for label, value, note in tiles
    )
    return f"<div class='tiles'>{html}</div>"


def _sources(summary: dict[str, Any], cost: str) -> str:
    counts: dict[str, int] = summary["sources"][cost]
    return " and ".join(sorted(counts, key=lambda source: -counts[source])) or "nothing was spent"


def _curve_cards(run: Run) -> list[str]:
    if run.rounds.empty:
        return []
    cards = [
        _plot("accuracy", "Accuracy", "Of the global model on the test set.", plots.accuracy(run.rounds)),
        _plot(
            "loss", "Loss", "Of the global model on the test set, and of the clients while they train.", plots.loss(run.rounds)
        ),
    ]
    if run.rounds["mean_bits"].notna().any():
        note = "Over the layers and the clients whose updates were aggregated."
        cards.append(_plot("bits", "Mean bits", note, plots.mean_bits(run.rounds)))
    if not run.layer_bits.empty:
        note = "What the clients really held; the federation's wish is in the hover text."
        cards.append(_plot("layers", "Bits by layer", note, plots.layer_bits(run)))
    return cards


def _cost_cards(run: Run) -> list[str]:
    groups, summary = run.summary["groups"], run.summary
    cards = [
        _card("Cost by group", "Sums over the run; bits are means and memory is the peak.", _group_table(run.summary), wide=True)
    ]
    if run.clients["accuracy"].notna().any():
        note = "Each point is a client: the final model at its own bits, on its held-out samples. Hover to see which."
        cards.append(_plot("spread", "Accuracy over clients", note, plots.client_accuracy(run.clients), wide=True))
    if groups:
        note = f"By what it was spent on: {_sources(summary, 'energy')}."
        cards.append(_plot("energy", "Energy by group", note, plots.energy(groups)))
        note = "The same work under each table: a saving that changes its sign between them is none."
        cards.append(_plot("tables", "Energy under each table", note, plots.energy_tables(summary["energy_tables_j"])))
        note = f"Received and sent: {_sources(summary, 'bytes')}."
        cards.append(_plot("traffic", "Bytes by group", note, plots.traffic(groups)))
        note = f"What the devices worked, one after another: {_sources(summary, 'time')}."
        cards.append(_plot("time", "Time by group", note, plots.time(groups)))
    return cards


def _group_table(summary: dict[str, Any]) -> str:
    heads = ["group", "clients", "updates", "accuracy", "mean bits", "energy", "time", "down", "up", "peak memory"]
    lines = []
    for group in [*summary["groups"], summary["total"]]:
        cells = [
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
        lines.append([group["group"], *cells])
    return _table(heads, lines, numbers_from=1, total=True)


def _choice_cards(run: Run) -> list[str]:
    lines = run.choices(MOST_CHOICES)
    if not lines:
        return []
    note = "What policies asked for, and what each client's budget made of it; all of them are in ledger.parquet, column choice."
    table = _table(["group", "choice", "updates"], [[group, choice, f"{count:,}"] for group, choice, count in lines])
    return [_card("What was chosen, and why", note, table, wide=True)]


def _trouble_cards(run: Run) -> list[str]:
    causes = run.summary["causes"]
    if not causes:
        return []
    lines = [[cause["status"], cause["count"], ranges(cause["clients"], 12), cause["reason"]] for cause in causes[:MOST_CAUSES]]
    note = "Attempts that did not become part of the model, by cause."
    if len(causes) > MOST_CAUSES:
        note += f" {counted(len(causes) - MOST_CAUSES, 'more cause')}: see ledger.parquet."
    table = _table(["status", "attempts", "clients", "cause"], lines)
    return [_card("Refused and failed", note, table, wide=True)]


def _origin_cards(run: Run) -> list[str]:
    summary = run.summary
    lines = [
        [cost, source, f"{count:,}", MEANINGS.get(source, "")]
        for cost, counts in summary["sources"].items()
        for source, count in counts.items()
    ]
    command = f"fedapt run {shlex.quote(str(run.path / 'scenario.yaml'))}"
    machine = _table(["part", "version or value"], [[name, value] for name, value in run.environment.items()])
    again = (
        f"<pre>{_text(command)}</pre>"
        f"<details><summary>scenario.yaml, every default filled in</summary><pre>{escape(run.scenario)}</pre></details>"
        f"<details><summary>versions, machine and the command it was started with</summary>{machine}</details>"
    )
    return [
        _card(
            "Measured or modelled", "Where each cost comes from.", _table(["cost", "origin", "rows", "meaning"], lines), wide=True
        ),
        _card("Run it again", "The resolved scenario gives the same bits on the same versions.", again, wide=True),
    ]


def _table(heads: Sequence[str], lines: Sequence[Sequence[object]], numbers_from: int = 99, total: bool = False) -> str:
    """Return a table of text; the columns from `numbers_from` are set as numbers, and the last line as the total if it is one."""

    def cells(line: Sequence[object], tag: str) -> str:
        kinds = ["number" if column >= numbers_from else "name" for column in range(len(line))]
        return "".join(f"<{tag} class='{kind}'>{_text(cell)}</{tag}>" for kind, cell in zip(kinds, line, strict=True))

    rows = [f"<tr>{cells(line, 'td')}</tr>" for line in lines]
    if total:
        rows[-1] = rows[-1].replace("<tr>", "<tr class='total'>", 1)
    return f"<div class='scroll'><table><tr>{cells(heads, 'th')}</tr>{''.join(rows)}</table></div>"


def _plot(name: str, title: str, note: str, figure: go.Figure, wide: bool = False) -> str:
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"plot-{name}", config=CONFIG)
    return _card(title, escape(note), drawn, wide)


def _card(title: str, note: str, content: str, wide: bool = False) -> str:
    """Return a box; `note` and `content` are HTML."""
    return f"<section class='card{' wide' if wide else ''}'><h2>{escape(title)}</h2><p>{note}</p>{content}</section>"
