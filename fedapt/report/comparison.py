"""The report of a comparison: one HTML page on several arms and seeds, that stands alone and needs no network."""

from __future__ import annotations

from pathlib import Path

from fedapt.benchmark.comparison import Comparison, seed_of
from fedapt.benchmark.measures import MEASURES
from fedapt.record.files import write_whole
from fedapt.report.cards.arm_costs import arm_cost_cards
from fedapt.report.cards.arms import arm_cards, chips
from fedapt.report.cards.curves import curve_cards
from fedapt.report.cards.front import front_cards
from fedapt.report.cards.verdict import BETTER, WORSE, verdict, verdict_cards
from fedapt.report.elements import card, text, tiles
from fedapt.report.figures import counted, percent
from fedapt.report.page import page

TILES = {
    "accuracy": "best accuracy",
    "accuracy_p10": "best p10 of clients",
    "joules_to_target": "least energy to target",
    "bytes_to_target": "fewest bytes to target",
}


def write_comparison(comparison: Comparison, path: Path, command: str) -> Path:
    """Write the page of a comparison to `path` and return it; command: how it was asked for.

    Raises DamagedData if a file of a run cannot be read or the page cannot be written, SetupError if plotly is missing.
    """
    cards = [
        *curve_cards(comparison),
        *front_cards(comparison),
        *verdict_cards(comparison),
        *arm_cost_cards(comparison),
        *arm_cards(comparison, path.parent),
        card("Do it again", "The command that made this page.", f"<pre>{text(command)}</pre>", wide=True),
    ]
    body = "\n".join([_heading(comparison), _tiles(comparison), "<div class='cards'>", chips(comparison), *cards, "</div>"])
    write_whole(path, page(comparison.name, body).encode())
    return path


def _heading(comparison: Comparison) -> str:
    seeds = sorted({seed_of(run) for arm in comparison.arms for run in arm.runs})
    runs = sum(len(arm.runs) for arm in comparison.arms)
    facts = [counted(len(comparison.arms), "arm"), counted(runs, "run"), f"seeds {', '.join(map(str, seeds)) or 'none'}"]
    facts.append(f"baseline {comparison.baseline}")
    if comparison.target_accuracy is not None:
        facts.append(f"target accuracy {percent(comparison.target_accuracy)} ({comparison.target_rule or 'given'})")
    notices = "".join(f"<div class='notice'>{text(note)}.</div>" for note in comparison.notes)
    return f"<h1>{text(comparison.name)}</h1><p>{text('; '.join(facts))}</p>{notices}"


def _tiles(comparison: Comparison) -> str:
    facts = []
    table = comparison.table
    for name, label in TILES.items():
        measure = MEASURES[name]
        whole = table[table[name].notna() & (table[f"{name}_n"] == table["runs"])]
        if len(whole):
            best = whole.loc[whole[name].idxmax() if measure.rising else whole[name].idxmin()]
            facts.append((label, measure.write(float(best[name])), str(best["arm"])))
    for said in (BETTER, WORSE):
        count = sum(verdict(row, MEASURES["accuracy"]) == said for row in table.to_dict("records"))
        facts.append((f"{said} than the baseline", counted(count, "arm"), "in accuracy; the 95 % interval leaves out zero"))
    missing = sum(len(arm.missing) for arm in comparison.arms)
    facts.append(("failed or missing", counted(missing, "run"), "see below" if missing else "every cell has its result"))
    return tiles(facts)
