"""fedapt.data.hub: data sets of the hub, and life without it."""

import socket
import subprocess
import sys
import time

import pytest

from fedapt.data import DataSpec, load
from fedapt.errors import SetupError

FILL_THE_CACHE = """if True:
    import datasets, pathlib, sys
    folder = pathlib.Path(sys.argv[1], "mnist")  # the name that the hub's data set has without its owner
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["no", "yes"]))
    part = lambda n: datasets.Dataset.from_dict({"image": [__import__("numpy").full((4, 4), i, "uint8") for i in range(n)],
                                                "label": [i % 2 for i in range(n)]}, features)
    folder.mkdir()
    part(6).to_parquet(folder / "train.parquet")
    part(4).to_parquet(folder / "test.parquet")
    datasets.load_dataset(str(folder))
    home = pathlib.Path(datasets.config.HF_DATASETS_CACHE)
    (home / "mnist").rename(home / "ylecun___mnist")
"""
LOAD = """if True:
    import sys
    from fedapt.data import DataSpec, load
    from fedapt.errors import SetupError
    try:
        federation = load(DataSpec(source=sys.argv[1]), 2, 0)
        print(federation.train.inputs[:, 0, 0, 0].tolist(), len(federation.test.labels), federation.class_names)
    except SetupError as error:
        print(error)
"""


def python(code, *arguments, **environment):
    """Run code in a process of its own, where the hub's settings can differ; return what it printed."""
    base = {"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin", "FLWR_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=base | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def home(tmp_path):
    return {"HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}


def test_without_the_hub_the_error_says_what_was_tried_and_what_to_do():
    with pytest.raises(SetupError) as error:
        load(DataSpec(source="fashion_mnist"), 3, 0)
    for part in (
        "data.source: no file or folder is called `fashion_mnist`",
        "the Hugging Face hub (OfflineModeIsEnabled",
        "the local cache of `datasets`",
        "datasets.load_dataset('zalando-datasets/fashion_mnist').save_to_disk('fashion_mnist')",
        "`source: strokes`, which needs no download",
    ):
        assert part in str(error.value)
    assert "Did you mean" not in str(error.value)
    assert error.value.exit_code == 4


@pytest.mark.parametrize(("source", "meant"), [("fashon_mnist", "fashion_mnist"), ("stroke", "strokes"), ("CIFAR10", None)])
def test_a_misspelt_source_is_recognised(source, meant):
    with pytest.raises(SetupError) as error:
        load(DataSpec(source=source), 3, 0)
    assert (f"Did you mean `{meant}`?" in str(error.value)) == (meant is not None)


def test_a_data_set_of_any_owner_is_asked_for_by_its_full_name():
    with pytest.raises(SetupError, match="could give the data set `somebody/something`"):
        load(DataSpec(source="hub:somebody/something"), 3, 0)


def test_a_data_set_that_was_fetched_before_is_used_without_the_hub(tmp_path, home):
    python(FILL_THE_CACHE, str(tmp_path), **home)
    for offline in ("1", "0"):
        found = python(LOAD, "mnist", HF_HUB_OFFLINE=offline, HF_ENDPOINT="http://127.0.0.1:9", **home)
        assert found == "[0, 1, 2, 3, 4, 5] 4 ('no', 'yes')\n"


@pytest.mark.slow
def test_a_hub_that_accepts_and_never_answers_is_given_up_within_seconds(home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.perf_counter()
        said = python(LOAD, "mnist", HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}", **home)
        assert "could give the data set `ylecun/mnist`" in said and "Timeout" in said
        assert time.perf_counter() - start < 30
