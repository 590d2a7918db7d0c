"""The environment of every test: no network, no telemetry, one thread, repeatable examples."""

import os

import pytest

# Flower, Ray, the hub and OpenMP read these once, when they are imported.
os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION="1",
    HF_HUB_OFFLINE="1",
    OMP_NUM_THREADS="1",
    RAY_USAGE_STATS_ENABLED="0",
)

from hypothesis import settings

settings.register_profile("fedapt", deadline=None, derandomize=True, database=None)
settings.load_profile("fedapt")


@pytest.fixture(scope="session")
def ray_session():
    """Start Ray once, with two workers' worth of cores."""
    import ray

    from fedapt.grid.ray_session import start_ray

    start_ray(2)
    yield
    ray.shutdown()
