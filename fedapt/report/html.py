"""The report of a run: one HTML page in its folder, with plots, that needs no network."""

from __future__ import annotations

from pathlib import Path

from fedapt.pretrained import kept
from fedapt.record.files import write_whole
from fedapt.report.cards.bits import bit_cards
from fedapt.report.cards.clients import client_cards
from fedapt.report.cards.costs import cost_cards, sources
from fedapt.report.cards.origin import origin_cards, parsed
from fedapt.report.cards.progress import progress_cards
from fedapt.report.cards.troubles import choice_cards, trouble_cards
from fedapt.report.elements import text, tiles
from fedapt.report.figures import (
    HALF_WORDS,
    LAYOUT_WORDS,
    batched_words,
    byte_count,
    counted,
    decimal,
    filtered_words,
    joules,
    memory,
    percent,
    pretraining_words,
    seconds,
)
from fedapt.report.page import page, shared_script
from fedapt.results import Run, read_run


def write_report(run_path: Path) -> Path:
    """Write `report.html` into a run folder, finished or not, and return its path.

    The page stands alone, unless a folder above holds plotly.js for all pages below it (`share_script`).
    Raises DamagedData if a file of the run cannot be read or the page cannot be written, SetupError if plotly is missing.
    """
    run = read_run(run_path)
    name = run_path.resolve().name
    cards = [
        *progress_cards(run),
        *bit_cards(run),
        *client_cards(run),
        *cost_cards(run),
        *choice_cards(run),
        *trouble_cards(run),
        *origin_cards(run),
    ]
    body = "\n".join([_heading(run, name), _tiles(run), "<div class='cards'>", *cards, "</div>"])
    path = run_path / "report.html"
    write_whole(path, page(name, body, shared_script(run_path)).encode())
    return path


def _heading(run: Run, name: str) -> str:
    threads = counted(run.environment.get("threads") or 1, "thread")
    facts = (
        f"fedapt {run.environment.get('fedapt')}, torch {run.environment.get('torch')}, {threads}, {run.environment.get('cpu')}"
    )
    done, planned = run.summary["rounds"], int(parsed(run)["rounds"])
    notice = "" if done == planned else f"<div class='notice'>This run stopped after {done} of {counted(planned, 'round')}.</div>"
    if changed := run.environment.get("inexact"):
        notice += f"<div class='notice'>This run was resumed, and not to the same bits: {text('; '.join(changed))}.</div>"
    if batched := run.summary["batched"]:
        facts += f"; {batched_words(batched, run.summary['total']['attempts'])}"
    total = run.summary["total"]
    if spared := total.get("spared_samples"):
        facts += f"; {filtered_words(total['backward_samples'], spared)}"
    engine = parsed(run).get("engine", {})
    if engine.get("channels_last"):
        facts += f"; {LAYOUT_WORDS}"
    if engine.get("compute") == "bfloat16":
        facts += f"; {HALF_WORDS}"
    begun = kept(run.path)
    start = f"<p>{text(f'The model: {pretraining_words(begun.origin)}.')}</p>" if begun else ""
    return f"<h1>{text(name)}</h1><p>{text(facts)}</p>{start}{notice}"


def _tiles(run: Run) -> str:
    summary, total = run.summary, run.summary["total"]
    spread = summary["client_accuracy"]
    lost = sum(count for status, count in summary["statuses"].items() if status != "ok")
    by_operands = joules(total["energy_operands_j"])
    best = f"best {percent(summary['best_accuracy'])} after {counted((summary['best_round'] or 0) + 1, 'round')}"
    facts = [
        ("global accuracy", percent(summary["accuracy"]), best if summary["rounds"] else "no round was completed"),
        ("energy of all clients", joules(total["energy_j"]), f"{sources(summary, 'energy')}; {by_operands} by both operands"),
        ("bytes moved", byte_count(total["downlink_bytes"] + total["uplink_bytes"]), sources(summary, "bytes")),
        ("simulated time", seconds(summary["simulated_time_s"]), f"{seconds(summary['wall_s'])} on the machine that ran it"),
        ("peak memory of a client", memory(total["memory_bytes"]), sources(summary, "memory")),
        ("mean bits of an update", decimal(total["mean_bits"], 2), counted(summary["rounds"], "round")),
        ("updates aggregated", f"{total['updates']:,}", f"{counted(lost, 'attempt')} refused or failed"),
    ]
    if spread:
        low, high = percent(spread["p10"]), percent(spread["p90"])
        facts.insert(1, ("median client's accuracy", percent(spread["median"]), f"p10 {low}, p90 {high}"))
    return tiles(facts)
