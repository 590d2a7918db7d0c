"""What `fedapt profile` does and prints: a bar while it measures, a table of what it found, and the profile as a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from fedapt.cost.host import processor
from fedapt.cost.measured import QUICK, THOROUGH, Notice, measured_profile
from fedapt.cost.profiles import Calibration, Profile, as_yaml
from fedapt.environment import usable_cores
from fedapt.errors import SetupError
from fedapt.record.files import write_whole
from fedapt.report.figures import DECIMAL, byte_count, counted, harmless, joules, memory, percent, seconds, written

FIGURES = {
    "memory": ("memory for tensors", memory),
    "on_chip_memory": ("last-level cache", memory),
    "fp32_macs_per_s": ("training in fp32", lambda value: per_second(value, "MAC")),
    "int8_macs_per_s": ("int8 matrix product", lambda value: per_second(value, "MAC")),
    "memory_bytes_per_s": ("copies", lambda value: f"{byte_count(value)}/s"),
    "fp32_mac_energy": ("energy of an fp32 MAC", joules),
    "on_chip_energy_j_per_byte": ("energy of a byte on chip", joules),
    "dram_energy_j_per_byte": ("energy of a byte in DRAM", joules),
    "uplink_bytes_per_s": ("uplink", lambda value: f"{byte_count(value)}/s"),
    "downlink_bytes_per_s": ("downlink", lambda value: f"{byte_count(value)}/s"),
    "radio_j_per_byte": ("energy of a byte sent", joules),
}
COEFFICIENTS = {
    "step_s": "a step, whatever the network",
    "convolution_launch_s": "each pass of a convolution",
    "other_launch_s": "each pass of another layer",
    "dense_mac_s": "a MAC",
    "grouped_mac_s": "a MAC of a grouped convolution",
    "activation_byte_s": "a byte of activations moved",
    "coded_weight_s": "a quantised weight, dequantised and updated",
}


def profile_machine(
    path: Path, *, calibrate: bool, quick: bool, threads: int, force: bool, file: TextIO | None = None
) -> Profile:
    """Measure this machine, show the figures, and write them as a profile to `path`.

    Raises SetupError, before anything is measured, if the file cannot be written or would replace another.
    """
    _check(path, force)
    if threads > usable_cores():
        raise SetupError(f"--threads {threads}: fedapt may use {counted(usable_cores(), 'core')} here; ask for no more threads")
    console = Console(file=file or sys.stdout, highlight=False, markup=False, emoji=False)
    console.print(Text(f"Measuring {harmless(processor())} on {counted(threads, 'thread')}", style="bold"))
    with _progress(console) as notice:
        profile = measured_profile(
            path.stem, calibrate=calibrate, thread_count=threads, effort=QUICK if quick else THOROUGH, notice=notice
        )
    write_whole(path, as_yaml(profile).encode())
    console.print(_figures(profile))
    if profile.calibration is not None:
        console.print()
        console.print(_coefficients(profile.calibration))
        console.print()
        console.print(_errors(profile.calibration))
    console.print()
    if quick:
        console.print(Text("Measured in a hurry (--quick): good for a trial, not for results.", style="yellow"))
    console.print(Text.assemble(("Profile   ", "bold"), str(path), ", each figure with its source"), soft_wrap=True)
    named = str(path) if path.is_absolute() else f"./{path}"
    console.print(Text(f"          in a scenario: profile: {named}"), soft_wrap=True)
    return profile


def per_second(value: float | None, noun: str) -> str:
    """Write a rate such as `16.0 GMAC/s`."""
    return written(value, [(f"{prefix}{noun}/s", size, 999.5) for prefix, size in DECIMAL.items() if size >= 1])


def origin(source: str) -> str:
    """Return where a figure comes from, for one cell: the text before what it was measured on."""
    if source.startswith("estimate: "):
        return f"estimate, from {source.partition('figure of the packaged profile ')[2].partition(':')[0]}"
    return source.partition(", on ")[0]


def _check(path: Path, force: bool) -> None:
    if path.suffix not in (".yaml", ".yml"):
        raise SetupError(f"{path}: a profile's name ends in .yaml; write -o {path}.yaml")
    if not path.parent.is_dir():
        raise SetupError(f"{path}: there is no folder {path.parent}; make it or choose another place with -o")
    if path.is_dir() or (path.exists() and not force):
        raise SetupError(f"{path} exists already; choose another name with -o, or replace it with --force")
    if not os.access(path.parent, os.W_OK):
        raise SetupError(f"{path}: nothing can be written to {path.parent}; choose another place with -o")


@contextmanager
def _progress(console: Console) -> Iterator[Notice]:
    """Show the phases: as a bar on a terminal, as one line each elsewhere."""
    begun: list[str] = []

    def line(phase: str, share: float) -> None:
        if phase not in begun:
            begun.append(phase)
            console.print(Text(f"  {phase} ..."))

    if not console.is_terminal or console.is_dumb_terminal:
        yield line
        console.print()
        return
    with Progress(TextColumn("  {task.description}"), BarColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda phase, share: progress.update(task, description=phase, completed=share)


def _figures(profile: Profile) -> Table:
    table = _table(("figure", False), ("value", True), ("source", False))
    for field, (label, write) in FIGURES.items():
        figure = getattr(profile, field)
        table.add_row(label, *((write(figure.value), origin(figure.source)) if figure else ("-", "this torch has none")))
    return table


def _coefficients(calibration: Calibration) -> Table:
    table = _table(("a training step pays for", False), ("time", True))
    for name, value in calibration.coefficients.items():
        table.add_row(COEFFICIENTS[name], seconds(value))
    return table


def _errors(calibration: Calibration) -> Table:
    """Return the median errors: of a fit that knows the family of networks, beside one that does not."""
    table = _table(("median error of predicted steps", False), ("unseen width, batch", True), ("unseen family", True))
    for family, error in calibration.unseen_error_by_family.items():
        table.add_row(family, percent(error), percent(calibration.left_out_error_by_family[family]))
    table.add_row("all", percent(calibration.unseen_error), percent(calibration.left_out_error), style="bold")
    return table


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading, number in columns:
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    return table
