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

Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", metavar="MODULE", help="Import a module or a .py file of yours, with kinds such as `my_module:Mine`."
    ),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        callback=lambda names: _known_trackers(names),
        help="Feed it to a tracker as it goes: tensorboard, mlflow or wandb.",
    ),
]

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


def _known_trackers(names: list[str] | None) -> list[str]:
    from fedapt.tracking.guarded import check_names

    try:
        check_names(names or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return names or []


def _load(plugins: list[str] | None) -> None:
    """Import the user's own modules, before fedapt's tables of kinds are read."""
    from fedapt.plugins import load_plugins

    load_plugins(plugins or [])


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
    plugin: Plugins = None,
    track: Track = None,
) -> None:
    """Run a scenario; results and a report go into a new folder."""
    _load(plugin)
    from fedapt.scenario import load_scenario

    loaded = load_scenario(scenario, overrides or [])
    from fedapt.report.terminal import Display
    from fedapt.run import run as run_scenario
    from fedapt.stopping import Stopper
    from fedapt.tracking.watched import watched

    with Stopper() as stopper, Display() as display, watched(display, track or []) as shown:
        run_scenario(loaded, output, shown, stopper)


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
    plugin: Plugins = None,
) -> None:
    """Validate a scenario and predict its run without training: who fits, bits, memory, energy, time, and what to change.

    The exit status is that of the run: 0 if it can start and its first rounds would count, with or without warnings.
    """
    _load(plugin)
    from fedapt.scenario import load_scenario

    loaded = load_scenario(scenario, overrides or [])
    from fedapt.report.prediction import check_scenario

    check_scenario(loaded, output, json)


@app.command(
    epilog="Examples: [bold]fedapt plan noniid[/]  ·  [bold]fedapt plan my.yaml --json plans.json[/]  ·  "
    "[bold]fedapt plan noniid --set 'clients.groups=\\[{profile: nrf52840}]'[/]"
)
def plan(
    scenario: Annotated[str, typer.Argument(help="A scenario file, or the name of a packaged one, such as `noniid`.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the scenario.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write it as JSON too; - prints nothing else.")] = None,
    plugin: Plugins = None,
) -> None:
    """Show what each kind of device would train in its first round, layer by layer: bits, weights that train, what is kept.

    A scheme that the server searches is searched here too, and a pretraining that is not done yet is done.
    """
    _load(plugin)
    from fedapt.scenario import load_scenario

    loaded = load_scenario(scenario, overrides or [])
    from fedapt.report.plan import show_plans

    show_plans(loaded, json)


@app.command(epilog="Example: [bold]fedapt resume runs/noniid-20261120-181500[/]")
def resume(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    allow_inexact: Annotated[
        bool, typer.Option("--allow-inexact", help="Go on under other versions or an edited scenario, and mark the run so.")
    ] = False,
    plugin: Plugins = None,
    track: Track = None,
) -> None:
    """Go on with a run that was stopped, failed or killed; it ends with the bits of one that was never interrupted."""
    _load(plugin)
    from fedapt.report.terminal import Display
    from fedapt.resuming import resume as resume_run
    from fedapt.stopping import Stopper
    from fedapt.tracking.watched import watched

    with Stopper() as stopper, Display() as display, watched(display, track or []) as shown:
        resume_run(run, shown, stopper, allow_inexact=allow_inexact)


@app.command(
    epilog="Examples: [bold]fedapt bench bench --dry-run[/]  ·  [bold]fedapt bench my.yaml --set rounds=5 --set axes.seed=[0][/]"
)
def bench(
    file: Annotated[str, typer.Argument(metavar="BENCH", help="A bench file, or the name of a packaged one, such as `bench`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace a value of the bench file, or of all of its scenarios."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the bench's folder is, or is made.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the arms and what they would take; train nothing.")] = False,
    names: Annotated[bool, typer.Option("--list", help="List the cells, and what became of each so far.")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Play again, too, what failed by its own rules.")] = False,
    plugin: Plugins = None,
    track: Track = None,
) -> None:
    """Play a grid of scenarios and compare its arms; started again, it goes on where it was, to the same bits.

    The exit status is 5 if a cell failed; the others are played and compared all the same.
    """
    _load(plugin)
    from fedapt.benchmark.bench import command_line, play_bench
    from fedapt.benchmark.display import BenchDisplay
    from fedapt.benchmark.grid import load_bench
    from fedapt.benchmark.preview import list_cells, preview

    loaded = load_bench(file, overrides or [])
    if names or dry_run:
        with BenchDisplay() as display:
            (list_cells if names else preview)(loaded, output, display)
        return
    from fedapt.stopping import Stopper

    with Stopper() as stopper, BenchDisplay() as display:
        play_bench(loaded, output, command_line(), display, stopper, trackers=track or [], retry=retry)


@app.command(
    epilog="Examples: [bold]fedapt compare runs/noniid-*[/]  ·  [bold]fedapt compare runs/a runs/b --baseline runs/b -o a-b[/]"
)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of benches.")],
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="The arm, or a run of it, that others are compared with; else the first.")
    ] = None,
    target: Annotated[
        float | None, typer.Option("--target", min=0, max=1, help="An accuracy from 0 to 1; else 95 % of the baseline's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A folder for the tables (CSV, Parquet, JSON) and the report.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write it as JSON too; - prints nothing else.")] = None,
) -> None:
    """Compare runs: those that differ in the seed alone are one arm, named by what differs between the scenarios."""
    from fedapt.benchmark.bench import command_line
    from fedapt.benchmark.existing import compare_runs
    from fedapt.benchmark.output import present

    present(compare_runs(runs, baseline, target), output, json, command_line())


@app.command(
    epilog="Examples: [bold]fedapt track runs/noniid-20261120-181500 --to tensorboard[/], then"
    " [bold]tensorboard --logdir runs[/]  ·  [bold]fedapt track runs/* --to mlflow --to wandb[/]"
)
def track(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of benches.")],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="TRACKER", callback=lambda names: _known_trackers(names), help="tensorboard, mlflow or wandb."
        ),
    ],
) -> None:
    """Show runs that exist, finished or not, in a tracker; a run that is tracked again is not there twice."""
    from fedapt.benchmark.existing import runs_in
    from fedapt.tracking.afterwards import track as track_run

    for run in (run for path in runs for run in runs_in(path)):
        for name in to:
            print(f"{run}: {name}: {track_run(run, name)}")


@app.command(epilog="Example: [bold]fedapt schema > scenarios/schema.json[/], for editors that check YAML as you type")
def schema(
    bench: Annotated[bool, typer.Option("--bench", help="That of bench files.")] = False,
    plugin: Plugins = None,
) -> None:
    """Print the JSON schema of scenarios, or of bench files."""
    _load(plugin)
    import json

    from fedapt.benchmark.file import bench_schema
    from fedapt.scenario import scenario_schema

    print(json.dumps(bench_schema() if bench else scenario_schema(), indent=2))


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
    """Write the report of a run again; that of a bench is written by the bench, or by `fedapt compare -o FOLDER`."""
    from fedapt.benchmark.existing import BENCH
    from fedapt.errors import SetupError
    from fedapt.report.html import write_report

    if (run / BENCH).is_file():
        raise SetupError(f"{run} is the folder of a bench; start the bench again, or: fedapt compare {run} -o FOLDER")
    print(write_report(run))
