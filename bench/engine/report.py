"""The results as Markdown: goals first, then every workload with every contestant, those that win and those that lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.engine.contestants import CONTESTANTS, FLOOR
from bench.engine.statistics import GOALS, Row, Spread, of, off, ratio, spread
from bench.engine.workloads import WORKLOADS, Workload

OWN = "fedapt-ray"
CONDITIONS = """\
Every contestant starts from the same weights and takes the same steps on the same samples in the same order, one thread a
worker, each run in a process of its own. Repeats are interleaved; figures are medians, with the lowest and the highest;
ratios are of the same repeat. Steady: the median round of the second half, without the last. First: from the start of the
process to the end of round one, imports and data included. Peak: proportional memory of all processes, in a run of its own.
`fedapt` is a whole `fedapt run`, with its ledger, a durable commit each round, and admission of every reply; no other
contestant does any of that. All others are given settings of glibc's allocator that keep it from returning memory between
steps; fedapt is not."""
HEAD = "| contestant | ms a client, steady | x the floor | x fedapt | first round, s | whole run, s | peak, MiB | accuracy | |"


def report(rows: Sequence[Row], environment: Mapping[str, Any]) -> str:
    """Return the whole report."""
    lines = ["# The engine, beside others", "", *_about(environment), "", CONDITIONS, "", *_goals(rows)]
    for workload in WORKLOADS.values():
        if any(row["workload"] == workload.name for row in rows):
            lines += ["", *_table(rows, workload)]
    return "\n".join(lines) + "\n"


def _about(environment: Mapping[str, Any]) -> list[str]:
    marks = [f"{environment['repeats']} repeats; {environment['workers']} cores of {environment['cpu']}"]
    marks += [f"{name} {environment[name]}" for name in ("torch", "flwr", "ray", "pfl", "python") if environment.get(name)]
    if environment["quick"]:
        marks.append("a quick look and no result")
    busy = f"{environment['busy_cores']:.2f} cores were at work before it began"
    said = f"**The machine was busy, do not rely on these figures: {busy}.**" if environment["busy"] else f"Idle: {busy}."
    return [", ".join(marks) + ".", "", said]


def _goals(rows: Sequence[Row]) -> list[str]:
    lines = ["## Goals", "", "| | goal | measured | |", "|---|---|---|---|"]
    for goal in GOALS:
        found, verdict = goal.verdict(rows)
        lines.append(f"| {goal.text} | at {'least' if goal.least else 'most'} {goal.bound:g} x | {found} | {verdict} |")
    return lines


def _table(rows: Sequence[Row], workload: Workload) -> list[str]:
    about = f"{workload.cohort} of {workload.clients} clients a round, {workload.samples} samples each, batch {workload.batch}"
    lines = [f"## {workload.name}: {workload.about}", "", f"{about}, {workload.steps} steps.", "", HEAD, "|---" * 9 + "|"]
    return lines + [
        _line(rows, workload.name, name)
        for name in CONTESTANTS
        if any((row["workload"], row["contestant"]) == (workload.name, name) for row in rows)
    ]


def _line(rows: Sequence[Row], workload: str, name: str) -> str:
    mine = [row for row in rows if (row["workload"], row["contestant"]) == (workload, name)]
    client, first, whole = (of(rows, workload, name, what) for what in ("client_ms", "first_s", "whole_s"))
    to_floor, to_own = (ratio(client, of(rows, workload, other, "client_ms")) for other in (FLOOR, OWN))
    peak = spread(list(of(rows, workload, name, "tree_peak_mib", watched=True).values()))
    scores = [100 * row["accuracy"] for row in mine if "accuracy" in row]
    remarks = dict.fromkeys([*(row["failure"][-200:] for row in mine if "failure" in row), *filter(None, map(off, mine))])
    cells = [
        name,
        _text(spread(list(client.values()))),
        _text(to_floor),
        _text(to_own),
        _text(spread(list(first.values()))),
        _text(spread(list(whole.values()))),
        _text(peak),
        f"{scores[0]:.1f} %" if scores else "",
        "; ".join(remarks).replace("|", "/"),
    ]
    return f"| {' | '.join(cells)} |"


def _text(found: Spread | None) -> str:
    return found.text if found else ""
