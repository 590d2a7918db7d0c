"""A tracker that fails, whenever and however, is one warning and changes nothing of the run."""

import io

import pytest
from safetensors.numpy import load_file

from fedapt.errors import SetupError
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.resuming import resume
from fedapt.stopping import Stopper
from fedapt.tracking import TRACKERS
from fedapt.tracking.afterwards import track
from fedapt.tracking.guarded import check_names
from fedapt.tracking.watched import watched
from tests.tracking.conftest import tracked_run, wanted

GONE = OSError("the network\nis gone")


def flaky(stage, error=GONE):
    """Return a tracker that remembers its calls and fails at a stage: start, log (of round 1) or finish."""
    calls = []

    class Flaky:
        def start(self, subject):
            self._fail("start")
            return "nowhere"

        def log(self, step, figures, clock_s):
            self._fail("log" if step else "first")

        def finish(self, figures, step, ending):
            self._fail("finish", ending)

        def _fail(self, now, *more):
            calls.append((now, *more))
            if now == stage:
                raise error

    return Flaky, calls


@pytest.mark.parametrize("stage", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [GONE, SystemExit(1)], ids=["error", "exit"])
def test_a_failure_is_one_warning_and_the_run_is_the_same(stage, error, tmp_path, monkeypatch, plain_run):
    tracker, calls = flaky(stage, error)
    monkeypatch.setitem(TRACKERS, "flaky", tracker)
    path, printed = tracked_run(wanted(), tmp_path, ["flaky"])
    assert printed.count("Warning: flaky tracks this run no further") == 1
    assert calls[-1][0] == stage
    assert (path / "model.safetensors").read_bytes() == (plain_run / "model.safetensors").read_bytes()


def test_a_package_that_is_missing_names_its_extra(tmp_path, monkeypatch, plain_run):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    path, printed = tracked_run(wanted(1), tmp_path, ["wandb"])
    assert "pip install 'fedapt[wandb]'" in " ".join(printed.split()) and len(read_run(path).rounds) == 1
    with pytest.raises(SetupError, match=r"wandb could not track .* pip install 'fedapt\[wandb\]'"):
        track(plain_run, "wandb")


def test_another_tracker_goes_on_when_one_fails(tmp_path, monkeypatch):
    (bad, _), (good, calls) = flaky("start"), flaky("never")
    monkeypatch.setitem(TRACKERS, "bad", bad)
    monkeypatch.setitem(TRACKERS, "good", good)
    tracked_run(wanted(), tmp_path, ["bad", "good"])
    assert calls == [("start",), ("first",), ("log",), ("finish", "finished")]


class Unlucky:
    """A transport whose work ends the run in round 1."""

    def exchange(self, arrays, tasks, total):
        raise RuntimeError("no machine")

    def close(self):
        pass


def test_a_run_that_fails_before_its_first_round_is_closed_as_failed(tmp_path, monkeypatch):
    tracker, calls = flaky("never")
    monkeypatch.setitem(TRACKERS, "flaky", tracker)
    with pytest.raises(RuntimeError, match="no machine"):
        tracked_run(wanted(), tmp_path, ["flaky"], Unlucky())
    assert calls == [("start",), ("finish", "failed")]


def test_a_resumed_run_tells_its_committed_rounds_first_and_each_once(tmp_path, monkeypatch, mlflow):
    from fedapt.grid.inline import Inline

    whole = Inline.exchange

    def second_fails(self, arrays, tasks, total):
        if tasks and any(task.instructions.round for task in tasks):
            raise RuntimeError("no machine")
        return whole(self, arrays, tasks, total)

    monkeypatch.setattr(Inline, "exchange", second_fails)
    with pytest.raises(RuntimeError):
        tracked_run(wanted(), tmp_path, ["mlflow"])
    (run,) = mlflow.runs.values()
    assert run.status == "KILLED" and {metric.step for metric in run.metrics} == {0}
    monkeypatch.setattr(Inline, "exchange", whole)
    (folder,) = tmp_path.iterdir()
    with Stopper() as stopper, Display(io.StringIO()) as display, watched(display, ["mlflow"]) as shown:
        resume(folder, shown, stopper)
    assert [metric.step for metric in run.metrics if metric.key == "energy_j"] == [0, 1]
    assert run.status == "FINISHED" and len(mlflow.runs) == 1 and load_file(folder / "model.safetensors")


def test_a_tracker_that_does_not_exist_is_named_with_what_was_meant():
    with pytest.raises(ValueError, match="unknown tracker `tensorbord`; did you mean `tensorboard`"):
        check_names(["mlflow", "tensorbord"])
