"""The commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedapt import __version__
from fedapt.errors import FedaptError
from fedapt.stopping import Stopped

app = typer.Typer(
    name="fedapt",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Federated and continual learning on edge devices: simulate hundreds of clients, each training one quantised model.",
    epilog="Try: [bold]fedapt run noniid[/]  or  [bold]fedapt run my.yaml --set rounds=5[/]",
)


def main() -> None:
    """Run the command line; a user's mistake is one clear sentence and the exit status of its kind."""
    try:
        app()
    except FedaptError as error:
        print(f"fedapt: {error}" if "\n" not in str(error) else str(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except Stopped as stopped:
        print(f"fedapt: {stopped}", file=sys.stderr)
        sys.exit(128 + stopped.signal_number)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _global(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


@app.command(epilog="Examples: [bold]fedapt run noniid[/]  ·  [bold]fedapt run my.yaml --set seed=1 --set rounds=5[/]")
def run(
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of a packaged one, such as `noniid`.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the scenario.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where run folders are made.")] = Path("runs"),
) -> None:
    """Run a scenario; results and a report go into a new folder."""
    from fedapt.scenario import load_scenario

    loaded = load_scenario(scenario, overrides or [])
    from fedapt.report.terminal import Display
    from fedapt.run import run as run_scenario
    from fedapt.stopping import Stopper

    with Stopper() as stopper, Display() as display:
        run_scenario(loaded, output, display, stopper)


@app.command(
    epilog="Examples: [bold]fedapt check noniid[/]  ·  [bold]fedapt check my.yaml --set clients.count=1000[/]  ·  "
    "[bold]fedapt check noniid --json -[/]"
)
def check(
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of a packaged one, such as `noniid`.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the scenario.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the run's folder would be made.")] = Path("runs"),
    json: Annotated[Path | None, typer.Option("--json", help="Write it as JSON too; - prints nothing else.")] = None,
) -> None:
    """Validate a scenario and predict its run without training: who fits, bits, memory, energy, time, and what to change.

    The exit status is that of the run: 0 if it can start and its first rounds would count, with or without warnings.
    """
    from fedapt.scenario import load_scenario

    loaded = load_scenario(scenario, overrides or [])
    from fedapt.report.prediction import check_scenario

    check_scenario(loaded, output, json)


@app.command(epilog="Example: [bold]fedapt resume runs/noniid-20261120-181500[/]")
def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    allow_inexact: Annotated[
        bool, typer.Option("--allow-inexact", help="Go on under other versions or an edited scenario, and mark the run so.")
    ] = False,
) -> None:
    """Go on with a run that was stopped, failed or killed; it ends with the bits of one that was never interrupted."""
    from fedapt.report.terminal import Display
    from fedapt.resuming import resume as resume_run
    from fedapt.stopping import Stopper

    with Stopper() as stopper, Display() as display:
        resume_run(run, display, stopper, allow_inexact=allow_inexact)


@app.command(epilog="Example: [bold]fedapt schema > scenarios/schema.json[/], for editors that check YAML as you type")
def schema() -> None:
    """Print the JSON schema of scenarios."""
    import json

    from fedapt.scenario import scenario_schema

    print(json.dumps(scenario_schema(), indent=2))


@app.command(
    epilog="Examples: [bold]fedapt profile[/]  ·  [bold]fedapt profile -o desk.yaml --calibrate[/], then in a scenario"
    " [bold]profile: ./desk.yaml[/]"
)
def profile(
    output: Annotated[Path, typer.Option("--output", "-o", help="The profile to write; its name is the file's.")] = Path(
        "this-machine.yaml"
    ),
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time small networks too, so that predicted times are this machine's own.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Measure in seconds, less exactly.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads to compute on, as clients will.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Measure this machine, and write a profile that clients of a scenario can have."""
    from fedapt.report.profiling import profile_machine

    profile_machine(output, calibrate=calibrate, quick=quick, threads=threads, force=force)


@app.command(epilog="Example: [bold]fedapt report runs/noniid-20261120-181500[/]")
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
) -> None:
    """Write the report of a run again."""
    from fedapt.report.html import write_report

    print(write_report(run))
