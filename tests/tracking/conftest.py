"""A run to track, and stand-ins for MLflow and W&B that are not installed here: their calls as the real ones take them."""

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest

from fedapt.report.terminal import Display
from fedapt.run import run
from fedapt.stopping import Stopper
from fedapt.tracking.watched import watched
from tests.grid.conftest import scenario


def wanted(rounds=2, **changes):
    clients = {"count": 6, "per_round": 4, "local": {"lr": 0.05, "batch": 16}, "method": {"precision": "apt"}}
    data = {"source": "digits", "samples": 120}
    base = {"clients": clients, "data": data, "rounds": rounds, "model": {"kind": "mlp", "hidden": [8]}}
    return scenario(**base | changes)


def tracked_run(wanted, root, names, transport=None):
    """Run a scenario with trackers; return the run folder and what was printed."""
    printed = io.StringIO()
    with Stopper() as stopper, Display(printed) as display, watched(display, names) as shown:
        return run(wanted, root, shown, stopper, transport), printed.getvalue()


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """Spare the page with its plots, which takes longer than a small run."""
    monkeypatch.setattr("fedapt.run.write_report", lambda path: path)


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory):
    """A run that nobody tracked yet."""
    return tracked_run(wanted(), tmp_path_factory.mktemp("plain"), [])[0]


class FakeMlflow(ModuleType):
    """A tracking server in memory with the part of MLflow's client interface that fedapt uses."""

    def __init__(self):
        super().__init__("mlflow")
        self.entities = SimpleNamespace(
            Param=lambda key, value: (key, value),
            Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step),
        )
        self.experiments, self.runs = {}, {}
        self.MlflowClient = lambda: self

    def get_tracking_uri(self):
        return "memory"

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=self.experiments[name]) if name in self.experiments else None

    def create_experiment(self, name):
        return self.experiments.setdefault(name, str(len(self.experiments)))

    def search_runs(self, experiments, wish, max_results):
        identity = wish.partition("= ")[2].strip("'")
        return [run for run in self.runs.values() if run.tags["fedapt.identity"] == identity][:max_results]

    def create_run(self, experiment, began_ms, tags, name):
        number = str(len(self.runs))
        info = SimpleNamespace(run_id=number)
        self.runs[number] = SimpleNamespace(info=info, tags=tags, name=name, params={}, metrics=[], status="RUNNING")
        return self.runs[number]

    def update_run(self, number, status):
        self.runs[number].status = status

    def log_batch(self, number, metrics=(), params=()):
        assert len(params) <= 100 and len(metrics) <= 1000
        self.runs[number].params |= dict(params)
        self.runs[number].metrics += metrics

    def get_metric_history(self, number, key):
        return [metric for metric in self.runs[number].metrics if metric.key == key]

    def set_terminated(self, number, status, ended_ms):
        self.runs[number].status = status


class FakeWandb(ModuleType):
    """W&B in memory: history by run id, where a step that is there already is dropped."""

    def __init__(self):
        super().__init__("wandb")
        self.Settings = dict
        self.mode, self.known = "offline", False
        self.runs = {}

    def setup(self, settings):
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self, prompt, verify):
        assert not prompt
        return self.known

    def init(self, id, config, **options):
        run = self.runs.setdefault(id, SimpleNamespace(url=f"http://w/{id}", history={}, summary={}))
        run.config, run.options, run.ended = config, options, None
        run.log = lambda figures, step: run.history.setdefault(step, figures)
        run.finish = lambda exit_code: setattr(run, "ended", exit_code)
        return run


@pytest.fixture
def mlflow(monkeypatch):
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return fake


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake
