"""Rerun the claims of APT, RCT and of fedapt itself, under the papers' own accounting.

    python -m bench.claims                         three data sets, two settings, three seeds: an hour or two on two cores
    python -m bench.claims --quick                 a look at two data sets with one seed, under five minutes
    python -m bench.claims --output DIR            all of it afresh: what is committed in bench/results/claims is not run again
    python -m bench.claims --tasks cifar10 --settings federated

Finished cells are kept in OUTPUT/cells.jsonl and not run again; OUTPUT/claims.md is the table.
Needs the Parquet files of ../shared/data, or of the folder that FEDAPT_SHARED_DATA names.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas

from bench.claims.arms import ARMS, QUICK, QUICK_ARMS, TASKS
from bench.claims.cell import Cell, measure, stay_on_one_core
from bench.claims.verdicts import curves, dominated, verdicts
from fedapt.environment import environment, usable_cores
from fedapt.record.files import append, write_whole
from fedapt.record.tables import as_json

SETTINGS = ("federated", "single")
CONDITIONS = """\
Federated: 100 clients, Dirichlet 0.3, ten a round, one local epoch, batch 32. Single: one client, an epoch a round; between
rounds the server keeps its model in float, so this is more than a lone device. Accuracy is the mean of the last three scores
on 5,000 test samples. Models, learning rates, samples and rounds are in bench/claims/arms.py. Bits are the highest of any
round; where a client has fewer samples than a batch, its memory allows more of them, and `budget` takes them."""


def main() -> None:
    """Run what is missing, and print each claim with what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, arms and seeds")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), help="data sets (default all)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="default both")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), help="what to run (default all)")
    parser.add_argument("--seeds", type=int, help="how many seeds, from 0 (default 3; with --quick 1)")
    parser.add_argument("--output", type=Path, help="default bench/results/claims, with --quick claims-quick")
    options = parser.parse_args()
    tasks = QUICK if options.quick else TASKS
    arms = options.arms or (QUICK_ARMS if options.quick else list(ARMS))
    seeds = options.seeds or (1 if options.quick else 3)
    output = options.output or Path(__file__).parents[1] / "results" / ("claims-quick" if options.quick else "claims")
    output.mkdir(parents=True, exist_ok=True)
    wanted = [
        Cell(task, setting, arm, seed)
        for seed in range(seeds)
        for task in tasks
        if not options.tasks or task in options.tasks
        for setting in options.settings
        for arm in arms
    ]
    results = run_missing(wanted, tasks, output / "cells.jsonl")
    write_whole(output / "environment.json", as_json(environment()))
    text = "\n".join(report(results))
    write_whole(output / "claims.md", f"{text}\n".encode())
    print(text)


def run_missing(wanted: Sequence[Cell], tasks: dict[str, Any], path: Path) -> pandas.DataFrame:
    """Return the results of all wanted cells, running on every core those that the file does not have."""
    done = {_cell(row): row for row in _read(path)}
    missing = [cell for cell in wanted if cell not in done]
    context = get_context("spawn")
    cores: Any = context.SimpleQueue()
    for core in range(usable_cores()):
        cores.put(core)
    with ProcessPoolExecutor(usable_cores(), mp_context=context, initializer=stay_on_one_core, initargs=(cores,)) as pool:
        running = [pool.submit(measure, cell, tasks[cell.task], ARMS[cell.arm]) for cell in missing]
        for number, future in enumerate(as_completed(running), 1):
            row = future.result()
            done[_cell(row)] = row
            append(path, json.dumps(row) + "\n")
            print(f"[{number}/{len(missing)}] {', '.join(map(str, _cell(row)))}: {_outcome(row)}", flush=True)
    return pandas.DataFrame([done[cell] for cell in wanted])


def _outcome(row: dict[str, Any]) -> str:
    return row.get("failure") or f"{100 * row['accuracy']:.2f} %, {row['bits']:.1f} bits, {row['wall_s']:.0f} s"


def _read(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        yield json.loads(line)


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(row["task"], row["setting"], row["arm"], row["seed"])


def report(results: pandas.DataFrame) -> list[str]:
    """Return the tables as Markdown."""
    lines = ["# Claims, and what was measured", "", CONDITIONS, ""]
    if "failure" in results:
        lost = results[results["failure"].notna()]
        for row in lost.itertuples():
            lines += [f"Did not finish: {row.task}, {row.setting}, {row.arm}, seed {row.seed}: {row.failure}", ""]
        results = results[results["failure"].isna()]
    lines += ["| claim | source | data | goal | saved | points beside fp32 | verdict |", "|---|---|---|---|---|---|---|"]
    for row in verdicts(results):
        points = f"{row.accuracy:+.2f} ± {row.error:.2f}"
        cells = [row.claim, row.source, f"{row.task}, {row.setting}", row.goal, row.saved, points, row.verdict]
        lines.append(f"| {' | '.join(cells)} |")
    curve = curves(results)
    lines += ["", "## Bits against accuracy", "", *dominated(curve), ""]
    lines += ["| data | arm | bits | points beside fp32 | energy beside fp32 | memory beside fp32 |", "|---|---|---|---|---|---|"]
    for line in curve.itertuples():
        cells = [f"{line.task}, {line.setting}", line.arm, f"{line.bits:.2f}", f"{line.points:+.2f} ± {line.error:.2f}"]
        lines.append(f"| {' | '.join(cells)} | {line.energy:.1%} | {line.memory:.1%} |")
    lines += ["", "## All arms, accuracy in %", ""]
    accuracy = results.assign(accuracy=100 * results["accuracy"])
    means = accuracy.pivot_table(index="arm", columns=["task", "setting"], values="accuracy", sort=False).round(2)
    lines += [
        "| arm | " + " | ".join(", ".join(column) for column in means.columns) + " |",
        "|---" * (len(means.columns) + 1) + "|",
    ]
    lines += [f"| {arm} | " + " | ".join(f"{value:.2f}" for value in row) + " |" for arm, row in means.iterrows()]
    return lines


if __name__ == "__main__":
    main()
