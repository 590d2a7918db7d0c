"""fedapt.data.federation: from options to the data of every client."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedapt.data import DataSpec, load, pool
from fedapt.errors import ScenarioError, SetupError

SMALL = {"samples": 300, "test_samples": 50}


def sizes(rows):
    return [len(own) for own in rows]


def test_the_default_federation_is_whole():
    federation = load(DataSpec(**SMALL), 6, 0)
    assert (federation.clients, federation.classes, federation.shape) == (6, 10, (1, 28, 28))
    assert federation.train.inputs.shape == (300, 1, 28, 28) and federation.test.inputs.shape == (50, 1, 28, 28)
    assert sizes(federation.rows) == [45] * 6 and sizes(federation.held_out) == [5] * 6
    assert federation.class_names == tuple("0123456789") and federation.without_data == ()


def test_training_and_held_out_rows_of_all_clients_are_disjoint():
    federation = load(DataSpec(**SMALL, partition="dirichlet", held_out=0.3), 6, 0)
    rows = np.concatenate([*federation.rows, *federation.held_out])
    assert sorted(rows.tolist()) == list(range(300)) and rows.dtype == np.int64
    assert all((np.diff(own) > 0).all() for own in federation.rows + federation.held_out)


@settings(max_examples=30)
@given(count=st.integers(20, 50), clients=st.integers(1, 20), held_out=st.floats(0, 0.99))
def test_whoever_has_two_samples_trains_on_one_and_holds_one_out(count, clients, held_out):
    federation = load(DataSpec(samples=count, test_samples=1, held_out=held_out), clients, 0)
    for kept, away in zip(sizes(federation.rows), sizes(federation.held_out), strict=True):
        total = kept + away
        expected = min(max(1, round(total * held_out)), total - 1) if total >= 2 and held_out > 0 else 0
        assert away == expected


def test_a_client_without_data_is_reported():
    federation = load(DataSpec(**SMALL, partition={"kind": "dirichlet", "alpha": 0.02}), 40, 0)
    empty = [client for client, count in enumerate(sizes(federation.rows)) if count == 0]
    assert federation.without_data == tuple(empty) != ()
    assert sum(sizes(federation.rows)) + sum(sizes(federation.held_out)) == 300


def test_the_same_seed_gives_the_same_federation_in_another_process(tmp_path):
    code = """if True:
        import hashlib, sys
        from fedapt.data import DataSpec, load
        f = load(DataSpec(samples=300, test_samples=50, partition="dirichlet"), 6, int(sys.argv[1]))
        arrays = [f.train.inputs, f.train.labels, f.test.inputs, f.test.labels, f.train.mean, f.train.std, *f.rows, *f.held_out]
        print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
    """

    def digest(seed, cache):
        environment = {"PYTHONPATH": ":".join(sys.path), "XDG_CACHE_HOME": str(tmp_path / cache), "PYTHONHASHSEED": str(seed)}
        return subprocess.run([sys.executable, "-c", code, str(seed)], env=environment, capture_output=True, text=True).stdout

    first = digest(0, "a")
    assert len(first) == 65 and first == digest(0, "a") == digest(0, "b") != digest(1, "a")


def test_the_buffers_are_read_only_and_shared():
    federation = load(DataSpec(**SMALL), 3, 0)
    for array in (federation.train.inputs, federation.train.labels, federation.test.inputs, federation.test.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert federation.test.mean is federation.train.mean


def test_a_batch_of_a_client_is_normalised_with_the_statistics_of_training():
    federation = load(DataSpec(samples=3000, test_samples=1), 4, 0)
    inputs, _ = federation.train.batch(np.arange(3000))
    assert inputs.mean().item() == pytest.approx(0, abs=1e-4) and inputs.std().item() == pytest.approx(1, abs=1e-3)


def test_importing_the_options_loads_nothing_heavy():
    code = (
        "import sys, fedapt.data; print({'torch', 'pyarrow', 'datasets', 'flwr', 'sklearn', 'pandas', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.parametrize("clients", [200, 1000])
def test_sixty_thousand_samples_are_shared_out_in_seconds(clients, tmp_path):
    code = """if True:
        import sys, time
        from fedapt.data import DataSpec, load
        start = time.perf_counter()
        load(DataSpec(partition={"kind": "dirichlet", "alpha": 0.3}), int(sys.argv[1]), 0)
        print(time.perf_counter() - start)
    """
    environment = {"PYTHONPATH": ":".join(sys.path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code, str(clients)], env=environment, capture_output=True, text=True)
    assert float(done.stdout) < 10


@pytest.mark.parametrize(("source", "samples"), [("strokes", 200), ("digits", 200), ("digits", None)])
def test_only_samples_of_the_chosen_classes_are_used_and_labels_stay_those_of_the_whole_data(source, samples):
    federation = load(DataSpec(source=source, classes=[7, "2"], samples=samples, test_samples=40, held_out=0.2), 4, 0)
    assert set(federation.train.labels) == set(federation.test.labels) == {2, 7} and federation.classes == 10
    assert len(federation.test.labels) == 40 and len(federation.train.labels) == (samples or len(federation.train.labels)) > 199
    assert sum(sizes(federation.rows)) + sum(sizes(federation.held_out)) == len(federation.train.labels)


@pytest.mark.parametrize("source", ["strokes", "digits"])
def test_choosing_all_classes_chooses_nothing(source):
    some = {"source": source, "samples": 100, "test_samples": 20, "partition": "dirichlet"}
    one, other = load(DataSpec(**some), 4, 0), load(DataSpec(**some, classes=list(range(10))), 4, 0)
    assert np.array_equal(one.train.inputs, other.train.inputs) and np.array_equal(one.test.labels, other.test.labels)
    assert all(map(np.array_equal, one.rows, other.rows))


def test_no_choice_of_classes_trains_on_what_another_tests_on():
    whole = load(DataSpec(source="digits"), 4, 0)
    some = load(DataSpec(source="digits", classes=[0, 1]), 4, 0)
    tested = {image.tobytes() for image in whole.test.inputs}
    assert {image.tobytes() for image in some.test.inputs} < tested
    assert not {image.tobytes() for image in some.train.inputs} & tested


def test_a_pool_is_normalised_like_the_federation_and_belongs_to_nobody():
    federation = load(DataSpec(**SMALL, classes=[5]), 6, 0)
    pooled = pool(DataSpec(samples=80, test_samples=20, classes=[1, 2]), federation, 0)
    assert pooled.train.mean is federation.train.mean and pooled.test.std is federation.train.std
    assert set(pooled.train.labels) == {1, 2} and pooled.data_shape == federation.data_shape
    # A row that nobody owns is drawn by a hand of its own, and not by that of a client.
    assert not np.array_equal(pooled.train.inputs[:6], load(DataSpec(samples=80, classes=[1, 2]), 6, 0).train.inputs[:6])


def test_a_pool_of_another_shape_is_refused():
    with pytest.raises(SetupError, match=r"its inputs are \[1, 8, 8\] uint8, but the clients train on \[1, 28, 28\] uint8"):
        pool(DataSpec(source="digits"), load(DataSpec(**SMALL), 6, 0), 0)


def test_an_unknown_class_is_refused():
    with pytest.raises(ScenarioError, match="there is no class 10"):
        load(DataSpec(**SMALL, classes=[10]), 6, 0)
