"""What `fedapt check` prints: the model, a table of the clients, a table of what a round costs them, the run, and warnings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from fedapt.check.prediction import GroupForecast, Prediction, Totals, gather, predict
from fedapt.check.rules import cautions
from fedapt.errors import RunFailed
from fedapt.record.files import write_whole
from fedapt.record.tables import as_json
from fedapt.report.figures import MISSING, byte_count, counted, decimal, harmless, joules, macs, memory, percent, seconds
from fedapt.report.terminal import figure_table, wrapped
from fedapt.scenario import Scenario

LABEL = 11
MOST_GROUPS = 12
MOST_REASONS = 3
CLIENTS = ["group", "fit", "samples", "bits", "batch", "trains", "peak mem", "budget"]
COSTS = ["one round", "MACs", "energy", "operands", "down", "up", "time", "slowest", "battery"]
STANDARD_OUTPUT = Path("-")


def check_scenario(scenario: Scenario, output: Path, json_file: Path | None, file: TextIO | None = None) -> Prediction:
    """Predict a run and show it; raises what the run would before its first round, and RunFailed if that round would end it.

    json_file: where the prediction goes as JSON too; `-` is standard output, without the tables.
    """
    facts = gather(scenario, output)
    prediction = predict(facts, cautions(facts))
    console = Console(file=file or sys.stdout, highlight=False, markup=False, emoji=False)
    if json_file == STANDARD_OUTPUT:
        console.file.write(prediction_json(prediction).decode())
    else:
        show(prediction, console)
        if json_file is not None:
            write_whole(json_file, prediction_json(prediction))
    if prediction.failure:
        raise RunFailed(prediction.failure)
    return prediction


def prediction_json(prediction: Prediction) -> bytes:
    """Return the prediction as JSON, its fields as they are called in `fedapt.check.prediction`."""
    return as_json(asdict(prediction))


def show(prediction: Prediction, console: Console) -> None:
    """Print a prediction, the verdict last."""
    printer = _Printer(console)
    for label, text in _about(prediction):
        printer.labelled(label, text)
    groups = prediction.groups[:MOST_GROUPS]
    for headings, cells in ((CLIENTS, _client_cells), (COSTS, _cost_cells)):
        console.print()
        console.print(figure_table(headings, [cells(group, prediction.model.weights) for group in groups], console.width))
    if len(prediction.groups) > MOST_GROUPS:
        printer.labelled("", f"and {counted(len(prediction.groups) - MOST_GROUPS, 'more group')}: --json has all of them")
    console.print(Text("Medians over the clients that fit, the highest peak; trains: of the weights.", style="dim"))
    console.print()
    for number, text in enumerate(_bits_lines(groups)):
        printer.labelled("" if number else "Bits", text)
    console.print()
    for label, text in _run_lines(prediction):
        printer.labelled(label, text)
    console.print()
    for warning in prediction.warnings:
        printer.labelled("Warning", warning.sentence, "yellow")
    if prediction.warnings:
        console.print()
    printer.labelled("Verdict", _verdict(prediction), "bold red" if prediction.failure else "bold green")


class _Printer:
    def __init__(self, console: Console) -> None:
        self._console = console

    def labelled(self, label: str, text: str, style: str = "") -> None:
        """Print text beside its label, broken into lines but not within a word."""
        lines = wrapped(harmless(text), self._console.width - LABEL)
        body = f"\n{' ' * LABEL}".join(lines)
        self._console.print(Text.assemble((f"{label:{LABEL}}", style or "bold"), body), soft_wrap=True)


def _about(prediction: Prediction) -> Iterator[tuple[str, str]]:
    model = prediction.model
    yield "Scenario", f"{prediction.name}: {prediction.enrolled} of {counted(prediction.clients, 'client')} can take part"
    floats = f"{model.float_parameters:,} other parameters stay in float"
    yield "Model", f"{model.kind}: {model.weights:,} weights in {counted(len(model.layers), 'layer')} that quantise; {floats}"
    if model.float_layers:
        yield "", f"wholly in float: {', '.join(model.float_layers)}"


def _client_cells(group: GroupForecast, weights: int) -> list[str]:
    """Return a line of the table of clients; weights: of the model, of which a share trains."""
    figures, start = group.figures, [harmless(group.group), f"{group.fit}/{group.clients}"]
    if not figures:
        return [*start, *["-"] * 5, memory(group.memory_budget_bytes)]
    counts = [decimal(figures[name].median, int(name == "mean_bits")) for name in ("samples", "mean_bits", "batch")]
    trains = percent(figures["trained_weights"].median / weights) if weights else MISSING
    return [*start, *counts, trains, memory(figures["memory_bytes"].max), memory(group.memory_budget_bytes)]


def _cost_cells(group: GroupForecast, weights: int) -> list[str]:
    figures = group.figures
    if not figures:
        return [harmless(group.group), *["-"] * (len(COSTS) - 1)]
    battery = group.battery_rounds
    return [
        harmless(group.group),
        macs(figures["macs"].median),
        joules(figures["energy_j"].median),
        joules(figures["energy_operands_j"].median),
        byte_count(figures["downlink_bytes"].median),
        byte_count(figures["uplink_bytes"].median),
        seconds(figures["time_s"].median),
        seconds(figures["time_s"].max),
        f"{battery.min:,.0f}x" if battery else "mains",
    ]


def _bits_lines(groups: Sequence[GroupForecast]) -> Iterator[str]:
    """Yield the bits of the layers, and why they are what they are; groups of which the same is said share the lines."""
    said = [(group.group, [_layers(group.layer_bits), *_choices(group)]) for group in groups if group.choices]
    for number, (_, lines) in enumerate(said):
        if all(lines != earlier for _, earlier in said[:number]):
            yield f"{', '.join(name for name, same in said if same == lines)}: {'; '.join(lines)}"


def _choices(group: GroupForecast) -> Iterator[str]:
    """Yield why a group's clients have the bits that they have, with how many if not all have the same."""
    if len(group.choices) == 1:
        yield from group.choices
        return
    frequent = list(group.choices.items())[:MOST_REASONS]
    for choice, count in frequent:
        yield f"{counted(count, 'client')}: {choice}"
    if rest := sum(group.choices.values()) - sum(count for _, count in frequent):
        yield f"{counted(rest, 'client')} alike, with other numbers"


def _layers(layers: dict[str, tuple[int, int]]) -> str:
    """Write `6 bits in all 4 layers`, or the bits of each layer; a range where clients differ."""
    written = {name: str(low) if low == high else f"{low}-{high}" for name, (low, high) in layers.items()}
    if len(set(written.values())) == 1:
        return f"{next(iter(written.values()))} bits in all {counted(len(written), 'layer')}"
    return ", ".join(f"{name} {bits}" for name, bits in written.items())


def _run_lines(prediction: Prediction) -> Iterator[tuple[str, str]]:
    first, whole, room = prediction.first_round, prediction.all_rounds, prediction.room
    yield "A round", f"{_totals(first)} ({first.clients:.0f} clients, the first round)"
    yield f"{whole.rounds} rounds", f"{_totals(whole)}, if bits stay as they start"
    wall = f"about {seconds(prediction.simulation_s)} on {counted(prediction.workers, 'worker')}, without starting them"
    yield "Here", f"{wall}: an estimate from trial steps on this machine"
    if prediction.pretraining_s is not None:
        left_s = prediction.pretraining_s
        yield "", f"of which {seconds(left_s)} to pretrain on the server" if left_s else "the pretrained weights are there"
    yield "", f"at most {byte_count(room.disk_bytes)} on the disk, of {byte_count(room.disk_free_bytes)} that are free"
    free = f", of {memory(room.memory_free_bytes)} that are free" if room.memory_free_bytes is not None else ""
    yield "", f"about {memory(room.memory_bytes)} of memory for workers and updates{free}"


def _totals(totals: Totals) -> str:
    radio = f"{byte_count(totals.downlink_bytes)} down, {byte_count(totals.uplink_bytes)} up"
    return f"{joules(totals.energy_j)}, {radio}, {seconds(totals.time_s)} simulated"


def _verdict(prediction: Prediction) -> str:
    count = len(prediction.warnings)
    if prediction.failure:
        return f"{prediction.name} cannot run: its first rounds would be empty"
    told = f", {counted(count, 'warning')}" if count else ""
    return f"{prediction.name} can run{told}"
