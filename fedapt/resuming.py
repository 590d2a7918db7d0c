"""Going on with a run that was ended, by whatever: `fedapt resume`."""

from __future__ import annotations

from pathlib import Path

import torch

from fedapt.deploy.local_superlink import run_on_superlink
from fedapt.environment import differences, environment, mark_inexact
from fedapt.errors import CannotResume
from fedapt.grid.gateway import Transport
from fedapt.record.commits import check
from fedapt.record.lock import in_use
from fedapt.record.tables import read_json, readable
from fedapt.report.terminal import Display
from fedapt.results import RunFolder, require_run
from fedapt.run import play, played_inline
from fedapt.scenario import Scenario, load_scenario
from fedapt.stopping import Stopper


def resume(
    path: Path,
    display: Display,
    stopper: Stopper,
    *,
    allow_inexact: bool = False,
    transport: Transport | None = None,
    inline: bool = False,
) -> Path:
    """Go on with a run from its newest whole round, to the bits of a run that was never interrupted.

    allow_inexact: go on although versions, threads, the CPU or the scenario are not what they were, and mark the run so.
    inline: play it in this process, whatever its engine.
    Raises CannotResume if they are not, SetupError if another process has the run, DamagedData if no round can be gone on from.
    """
    require_run(path)
    folder = RunFolder(path)
    if folder.is_complete:
        check(path)
        if folder.commits.path.exists() or any(path.glob(".*")):
            with in_use(path):
                folder.commits.remove()
        display.message(f"{path}: all rounds of this run are played and its files are whole; there is nothing to resume.")
        return path
    scenario, changed = _scenario_of(path, allow_inexact)
    scenario = played_inline(scenario) if inline else scenario
    if scenario.engine.kind == "superlink" and transport is None:
        return run_on_superlink(scenario, path.parent, display, resumed=path, allow_inexact=allow_inexact)
    with in_use(path):
        if changed:
            display.warning(f"this run will not end with the same bits: {'; '.join(changed)}")
            mark_inexact(path, changed)
        play(scenario, folder, display, stopper, transport, resumed=True)
    return path


def _scenario_of(path: Path, allow_inexact: bool) -> tuple[Scenario, list[str]]:
    """Return a run's scenario, and in what this process differs from the one that began it; sets torch's threads."""
    before = read_json(path / "environment.json", ())
    with readable(path / "scenario.yaml") as file:
        text = file.read_bytes().decode()
    edited = environment(text)["scenario_sha256"] != before.get("scenario_sha256")
    if not edited or allow_inexact:
        scenario = load_scenario(str(path / "scenario.yaml"))
        torch.set_num_threads(scenario.engine.threads)
    changed = differences(before, environment(text, gpu="gpu" in before, half="bf16" in before))
    if changed and not allow_inexact:
        raise CannotResume(
            f"{path} cannot go on to the same bits: {'; '.join(changed)}. With --allow-inexact it goes on all the same."
        )
    return scenario, changed
