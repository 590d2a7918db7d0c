"""The results of a comparison: CSV, Parquet, JSON, a table in the terminal, and the report."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from fedapt import __version__
from fedapt.benchmark.comparison import Comparison, comparison_json, is_whole, seed_of
from fedapt.benchmark.front import COSTS, SCORE, choices, front, written_budget
from fedapt.benchmark.measures import MEASURES, TO_TARGET, measured
from fedapt.record.files import explained, write_whole
from fedapt.record.tables import as_json
from fedapt.report.comparison import write_comparison
from fedapt.report.figures import counted, decimal, harmless, percent
from fedapt.report.terminal import figure_table, wrapped

if TYPE_CHECKING:
    import pandas

REPORT = "report.html"
README = """\
What is in this folder. It was written by fedapt {version}.

results.csv       one line an arm: means over its seeds, and differences to its baseline     pandas.read_csv("results.csv")
results.parquet   the same with exact types                                          pandas.read_parquet("results.parquet")
results.json      the same, nested, with the target accuracy and the notes
cells.csv         one line a run: arm, seed, and its figures                                 pandas.read_csv("cells.csv")
report.html       the same as a page with plots; needs no network
cells/            of a bench: a run folder for each cell, with a README.txt of its own
bench.json        of a bench: command, baseline, the cells and their labels, versions and machine
plotly.min.js     of a bench: the script that all of its reports share

Columns of results.csv
arm, and one for each axis: what the runs of the line have in common.
against            the arm that this one is compared with; its own name for a baseline, empty if there is none
runs               runs that the means are over; unfinished: of those, without all their rounds; missing: without a result
reached            runs that reached the target accuracy
NAME               mean of a measure over the runs that have it; empty where it is not known
NAME_sd, NAME_n    its standard deviation (n - 1), and over how many runs
NAME_diff          mean difference, this arm less `against`, over the seeds that both have
NAME_low, _high    95 % interval of that difference (Student's t)
NAME_p             p of the paired t-test, two-sided; empty with fewer than two common seeds, or where differences do not vary
NAME_p_holm        the same, corrected by Holm's method for as many comparisons as this column has

Measures
{measures}

cells.csv also has `complete` (all rounds were played), `rounds` (how many were), `wall_s` (seconds here) and `path`.
Units are in the names: seconds and _s, joules and _j, _bytes bytes; accuracies are shares of one.
"""
STANDARD_OUTPUT = Path("-")
LABEL = 10
MOST_NOTES = 8
SIGNIFICANT = 0.05


def write_results(comparison: Comparison, folder: Path, command: str) -> None:
    """Write the tables, the report and a README that explains them into a folder; raises DamagedData."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "results.csv", comparison.table.to_csv(index=False).encode())
    parquet = io.BytesIO()
    comparison.table.to_parquet(parquet, index=False)
    write_whole(folder / "results.parquet", parquet.getvalue())
    write_whole(folder / "results.json", as_json(comparison_json(comparison)))
    write_whole(folder / "cells.csv", cells_table(comparison).to_csv(index=False).encode())
    write_whole(folder / "README.txt", README.format(version=__version__, measures=_explained_measures()).encode())
    write_comparison(comparison, folder / REPORT, command)


def present(comparison: Comparison, folder: Path | None, json_file: Path | None, command: str) -> None:
    """Print a comparison, and write it into a folder and as JSON if wanted; json_file `-` is standard output, alone."""
    if folder is not None:
        write_results(comparison, folder, command)
    text = as_json(comparison_json(comparison))
    if json_file == STANDARD_OUTPUT:
        sys.stdout.write(text.decode())
        return
    show(comparison, Console(highlight=False, markup=False, emoji=False), folder)
    if json_file is not None:
        write_whole(json_file, text)


def cells_table(comparison: Comparison) -> pandas.DataFrame:
    """Return one row for each run, with the axes of its arm, and its figures by the names of MEASURES."""
    import pandas

    rows = [
        {
            "arm": arm.name,
            **arm.settings,
            "seed": seed_of(run),
            "complete": is_whole(run),
            "rounds": run.summary["rounds"],
            **{name: measured(run, comparison.target_accuracy).get(name) for name in MEASURES},
            "wall_s": run.summary["wall_s"],
            "path": str(run.path),
        }
        for arm in comparison.arms
        for run in arm.runs
    ]
    return pandas.DataFrame(rows)


def show(comparison: Comparison, console: Console, folder: Path | None) -> None:
    """Print the comparison: what was reached and spent, what it took to the target, and what stands against it."""
    table = comparison.table
    console.print()
    headings = ["arm", "runs", "accuracy", "sd", "vs base", "p", "p10", "energy", "memory"]
    console.print(figure_table(headings, [_reached(row) for _, row in table.iterrows()], console.width))
    console.print()
    if comparison.target_accuracy is None:
        _labelled(console, "Target", comparison.target_rule)
    else:
        _labelled(console, "Target", f"{percent(comparison.target_accuracy)}: {_rule(comparison.target_rule)}")
        headings = ["arm", "reached", *(MEASURES[name].title for name in TO_TARGET)]
        console.print(figure_table(headings, [_to_target(row) for _, row in table.iterrows()], console.width))
        console.print()
    _show_front(comparison, console)
    for label, text in _closing(comparison, folder):
        _labelled(console, label, text)


def _show_front(comparison: Comparison, console: Console) -> None:
    """Print the arms that no other beats at some cost, and the best within each budget; nothing if costs hardly differ."""
    found = list(choices(comparison))
    if not found:
        return
    fronts = {cost: front(comparison, cost) for cost in dict.fromkeys(choice.cost for choice in found)}
    rows = comparison.table[comparison.table["arm"].isin({name for names in fronts.values() for name in names})]
    headings = ["front", MEASURES[SCORE].title, "sd", *(f"{COSTS[cost]} " for cost in fronts)]
    lines = [_fronted(row, fronts) for _, row in rows.sort_values(SCORE, ascending=False).iterrows()]
    console.print(figure_table(headings, lines, console.width))
    console.print()
    scores = comparison.table.set_index("arm")[SCORE]
    for choice in found:
        picks = [f"{written_budget(choice.cost, budget)}: {arm} ({percent(scores[arm])})" for budget, arm in choice.picks]
        _labelled(console, choice.name[:1].upper() + choice.name[1:], f"within {'; '.join(picks)}")
    if tables := [choice.table for choice in found if choice.table]:
        text = f"{', '.join(tables)}: energy as other tables price a MAC; by both operands, a float activation makes a float MAC"
        _labelled(console, "", text)
    text = "no other arm is both cheaper and better in its last five scores; costs of a client in a round, of memory the peak"
    _labelled(console, "*", text)
    console.print()


def _fronted(row: Any, fronts: Mapping[str, Sequence[str]]) -> list[str]:
    costs = [MEASURES[cost].write(row[cost]) + ("*" if row["arm"] in names else " ") for cost, names in fronts.items()]
    return [harmless(row["arm"]), percent(row[SCORE]), _points(row[f"{SCORE}_sd"], ""), *costs]


def _explained_measures() -> str:
    return "\n".join(f"{measure.name:18} {measure.about}" for measure in MEASURES.values())


def _rule(rule: str) -> str:
    return "as given" if rule == "given" else rule


def _reached(row: Any) -> list[str]:
    p = row["accuracy_p_holm"]
    difference = row["accuracy_diff"]
    return [
        harmless(row["arm"]),
        f"{row['runs']}{'*' if row['unfinished'] or row['missing'] else ''}",
        percent(row["accuracy"]),
        _points(row["accuracy_sd"], ""),
        "base" if row["against"] == row["arm"] else _points(difference, "+"),
        decimal(p, 3) if p != p or p >= 0.001 else "<.001",
        percent(row["accuracy_p10"]),
        MEASURES["energy_j"].write(row["energy_j"]),
        MEASURES["memory_bytes"].write(row["memory_bytes"]),
    ]


def _points(share: float, sign: str) -> str:
    return "-" if share != share else f"{100 * share:{sign}.1f}"


def _to_target(row: Any) -> list[str]:
    return [
        harmless(row["arm"]),
        f"{int(row['reached'])} of {row['runs']}",
        *(MEASURES[name].write(row[name]) for name in TO_TARGET),
    ]


def _closing(comparison: Comparison, folder: Path | None) -> Iterator[tuple[str, str]]:
    table = comparison.table
    if table["accuracy_p10"].notna().any():
        yield "p10", "the accuracy that a tenth of the clients stay below, each on its own held-out samples; mean over runs"
    compared = table[(table["against"] != "") & (table["against"] != table["arm"])]
    if len(compared):
        tested = compared["accuracy_p"].notna().sum()
        bases = list(dict.fromkeys(compared["against"]))
        base = (
            bases[0]
            if len(bases) == 1
            else f"the baseline of the same settings ({', '.join(bases[:3])}{', ...' * (len(bases) > 3)})"
        )
        if tested:
            text = (
                f"points beside {base}, seed by seed; p of a paired t-test, corrected for {counted(tested, 'comparison')} (Holm)"
            )
        elif compared["accuracy_low"].notna().any():
            text = f"points beside {base}; the differences are the same for every seed, so there is nothing to test"
        else:
            text = f"points beside {base}; without two seeds in common there is no test"
        yield "vs base", text
    if (table["reached"] < table["runs"]).any() if comparison.target_accuracy is not None else False:
        yield "", "means to the target are over the runs that reached it"
    if table["unfinished"].any() or table["missing"].any():
        yield "*", "some runs of this arm are unfinished or missing"
    for number, note in enumerate(_short(comparison.notes)):
        yield "" if number else "Note", note
    if folder is not None:
        yield "Results", f"{folder / 'results.csv'} (also .parquet, .json), {folder / 'cells.csv'}"
        yield "Report", str(folder / REPORT)


def _short(notes: Sequence[str]) -> list[str]:
    more = [f"and {len(notes) - MOST_NOTES} more: see the report"] if len(notes) > MOST_NOTES else []
    return [*notes[:MOST_NOTES], *more]


def _labelled(console: Console, label: str, text: str) -> None:
    body = wrapped(harmless(text), console.width - LABEL)
    console.print(Text.assemble((f"{label:{LABEL}}", "bold"), f"\n{' ' * LABEL}".join(body)), soft_wrap=True)
