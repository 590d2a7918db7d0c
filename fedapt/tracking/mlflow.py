"""MLflow: to the server or database of MLFLOW_TRACKING_URI, by default what MLflow takes: `mlflow.db` in the working directory.

The experiment is MLFLOW_EXPERIMENT_NAME, or `fedapt`. A run that was tracked before is found by its tag `fedapt.identity` and
completed: what it has is not written again. Times are the run's begin plus simulated time.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from fedapt.tracking.tracker import Ending, Subject

IDENTITY = "fedapt.identity"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
# What one request may hold, by MLflow's REST interface.
MOST_PARAMETERS, MOST_METRICS, LONGEST_PARAMETER = 100, 1000, 6000
# MLflow tells its makers how it is used, and tries a server that is away for minutes; a user's own settings stay.
WISHES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
ALWAYS_THERE = "energy_j"
FORBIDDEN = re.compile(r"[^\w\-. :/]")


class MLflow:
    """Writes metrics, parameters and tags through MLflow's client."""

    def __init__(self) -> None:
        for name, value in WISHES.items():
            os.environ.setdefault(name, value)
        import mlflow

        # Its database names every table that it makes.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._mlflow: Any = mlflow
        self._client = mlflow.MlflowClient()

    def start(self, subject: Subject) -> str:
        """Begin a run, or go on with the one of that identity."""
        self._subject, self._at_s = subject, subject.began_s
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedapt")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        found = self._client.search_runs([experiment], f"tags.`{IDENTITY}` = '{subject.identity}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
        else:
            self._run = self._create(experiment)
        self._done = self._steps(ALWAYS_THERE)
        return f"MLflow's experiment {name} at {self._mlflow.get_tracking_uri()}"

    def _create(self, experiment: str) -> str:
        subject, entities = self._subject, self._mlflow.entities
        tags = {IDENTITY: subject.identity, **{f"fedapt.{name}": value for name, value in subject.tags.items()}}
        run = self._client.create_run(experiment, round(subject.began_s * 1000), tags, subject.name)
        parameters = [
            entities.Param(FORBIDDEN.sub("_", name), str(value)[:LONGEST_PARAMETER]) for name, value in subject.parameters.items()
        ]
        for some in _parts(parameters, MOST_PARAMETERS):
            self._client.log_batch(run.info.run_id, params=some)
        return str(run.info.run_id)

    def log(self, step: int, figures: Mapping[str, float], clock_s: float) -> None:
        """Write a round's metrics, unless the run has them."""
        self._at_s = self._subject.began_s + clock_s
        if step not in self._done:
            self._write(figures, step)

    def finish(self, figures: Mapping[str, float], step: int, ending: Ending) -> None:
        """Write the final metrics, and how the run has ended."""
        first = next(iter(figures), "")
        if first and step not in self._steps(first):
            self._write(figures, step)
        self._client.set_terminated(self._run, STATUS[ending], round(self._at_s * 1000))

    def _write(self, figures: Mapping[str, float], step: int) -> None:
        at_ms, metric = round(self._at_s * 1000), self._mlflow.entities.Metric
        metrics = [metric(FORBIDDEN.sub("_", name), float(value), at_ms, step) for name, value in figures.items()]
        for some in _parts(metrics, MOST_METRICS):
            self._client.log_batch(self._run, metrics=some)

    def _steps(self, metric: str) -> set[int]:
        """Return the steps at which the run has a metric."""
        return {point.step for point in self._client.get_metric_history(self._run, FORBIDDEN.sub("_", metric))}


def _parts(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part
