"""What the server of `tests.children` loads before it forks."""

import os

os.environ.update(FLWR_TELEMETRY_ENABLED="0", HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")

import pandas  # noqa: F401
import plotly.graph_objects
import plotly.offline  # noqa: F401
import pyarrow.parquet  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.datasets  # noqa: F401

import fedapt.benchmark.bench
import fedapt.cli
import fedapt.report.comparison
import fedapt.report.html
import fedapt.resuming
import fedapt.run  # noqa: F401
