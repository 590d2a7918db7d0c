"""One cell of a bench on the disk: a run folder of a chosen name, what became of it so far, and playing what is left of it."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from fedapt.environment import environment
from fedapt.errors import DamagedData, FedaptError, RunFailed, ScenarioError, SetupError
from fedapt.reading.yaml_source import read_bytes
from fedapt.record.commits import MANIFEST, Commits, check
from fedapt.record.files import explained, write_whole
from fedapt.record.lock import in_use
from fedapt.record.tables import as_json, read_json
from fedapt.report.terminal import Display
from fedapt.results import RunFolder
from fedapt.resuming import resume
from fedapt.run import play, played_inline
from fedapt.scenario import Scenario, parsed
from fedapt.stopping import Stopper

FAILURE = "failed.json"
SCENARIO = "scenario.yaml"
# After kill -9 of a bench, its workers need a moment to notice.
RELEASE_S = 30.0
POLL_S = 0.2


@dataclass(frozen=True)
class Ended:
    """How playing a cell ended: with exit status 0, or with what failed in one sentence."""

    exit_code: int = 0
    sentence: str = ""


@dataclass(frozen=True)
class Standing:
    """What became of a cell so far. rounds: how many are committed; sentence: why it failed."""

    state: Literal["new", "begun", "finished", "failed"]
    rounds: int = 0
    sentence: str = ""


def standing(path: Path, planned: int) -> Standing:
    """Return what became of the cell in a folder; raises DamagedData if a finished one is not as it was written.

    A failure by the run's own rules is final, since it would come again; all others are tried again.
    """
    if not (path / SCENARIO).is_file():
        return Standing("new")
    if (path / MANIFEST).exists():
        check(path)
        return Standing("finished", planned)
    rounds = len(Commits(path / "rounds").numbers())
    if (path / FAILURE).exists():
        failure = read_json(path / FAILURE, ("exit_code", "sentence"))
        if failure["exit_code"] == RunFailed.exit_code:
            return Standing("failed", rounds, str(failure["sentence"]))
    return Standing("begun", rounds)


def changes(path: Path, scenario: Scenario) -> list[str]:
    """Say in what the scenario of a cell's folder differs from the one it should have; the engine does not matter.

    Returns no phrase for the same scenario, and for a cell that was not begun.
    """
    file = path / SCENARIO
    if not file.is_file():
        return []
    before, _ = parsed(read_bytes(file.read_bytes(), str(file)))
    if before is None:
        return ["its scenario is of another version of fedapt"]
    was, now = (dict(flat(one.model_dump(exclude={"engine"}), "")) for one in (before, scenario))
    return [
        f"{key} was {was.get(key, 'not there')}, is {now.get(key, 'not there')}"
        for key in [*was, *(key for key in now if key not in was)]
        if key not in was or key not in now or was[key] != now[key]
    ]


def play_cell(path: Path, text: str, stopper: Stopper, display: Display | None = None, *, inline: bool) -> Ended:
    """Play a cell to its end, from where it is; what ends it early is noted in its folder and returned.

    text: its scenario, as `dump_scenario` writes it; inline: in this process, whatever its engine.
    """
    display = display or Display(io.StringIO())
    try:
        _wait_until_free(path)
        with explained(path):
            (path / FAILURE).unlink(missing_ok=True)
        if (path / SCENARIO).is_file():
            resume(path, display, stopper, inline=inline)
        else:
            _begin(path, text, display, stopper, inline=inline)
    except FedaptError as error:
        return note_failure(path, Ended(error.exit_code, str(error)))
    except Exception as error:
        return note_failure(path, Ended(1, f"{type(error).__name__}: {error}; {path / 'run.log'} has the traceback"))
    return Ended()


def note_failure(path: Path, ended: Ended) -> Ended:
    """Write into a cell's folder how it failed; a folder that cannot be written to keeps the reason from nobody."""
    with suppress(DamagedData):
        if path.is_dir():
            write_whole(path / FAILURE, as_json({"exit_code": ended.exit_code, "sentence": ended.sentence}))
    return ended


def _begin(path: Path, text: str, display: Display, stopper: Stopper, *, inline: bool) -> None:
    scenario, problems = parsed(read_bytes(text.encode(), "scenario"))
    if scenario is None:
        raise ScenarioError("\n".join(map(str, problems)))
    folder = RunFolder(path)
    with explained(path):
        folder.commits.path.mkdir(parents=True, exist_ok=True)
    with in_use(path):
        torch.set_num_threads(scenario.engine.threads)
        engine = scenario.engine
        folder.write_start(text, environment(text, gpu=engine.wants_gpu, half=engine.compute == "bfloat16"))
        play(played_inline(scenario) if inline else scenario, folder, display, stopper, None)


def _wait_until_free(path: Path) -> None:
    """Return when no other process plays the cell; raises SetupError if one goes on."""
    deadline_s = time.monotonic() + RELEASE_S
    while path.is_dir():
        try:
            with in_use(path):
                return
        except SetupError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(POLL_S)


def flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield the scalars of nested data with their dotted keys."""
    if not isinstance(value, (dict, list)) or not value:
        yield key, value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for step, item in items:
        yield from flat(item, f"{key}.{step}" if key else str(step))
