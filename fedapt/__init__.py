"""Federated training of quantised models on edge devices, with every cost accounted for.

Importing fedapt, whichever part of it comes first, switches off what Flower and Ray would report about their use.
"""

import os

__version__ = "0.1.0"

for _variable, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_variable, _value)
