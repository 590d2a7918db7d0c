"""fedapt.data.owners: every partition is disjoint, repeatable and quiet."""

import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedapt.data import DataSpec
from fedapt.data import owners as module
from fedapt.data.owners import owners, rows_of
from fedapt.data.partition import PARTITIONS, Task
from fedapt.errors import ScenarioError

# Without a `size` the rows that are not needed stay without an owner; these give every row to somebody.
COVERING = ["iid", "dirichlet", "linear", "square", "exponential", "continuous", "distribution", "natural_id"]
OPTIONS = {
    "size": {"partition_sizes": [40, 30, 20, 10]},
    "grouped_natural_id": {"group_size": 2},
    "distribution": {"preassigned_num_samples_per_label": 1},
    "pathological": {"num_classes_per_partition": 3},
}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setattr(module, "cached", lambda name, key, make: make())


def partition(kind, **options):
    return DataSpec(partition={"kind": kind, **OPTIONS.get(kind, {}), **options}).partition


def task(count=200, clients=4, seed=0, classes=4, ids=4):
    generator = np.random.default_rng(count)
    return Task(
        labels=generator.permutation(np.arange(count) % classes),
        clients=clients,
        seed=seed,
        columns={"client": generator.permutation(np.arange(count) % ids), "weight": generator.random(count)},
    )


def test_rows_of_an_owner_are_ascending_and_those_of_nobody_are_left_out():
    rows = rows_of(np.array([1, -1, 0, 1, 3], dtype=np.int32), 4)
    assert [own.tolist() for own in rows] == [[2], [0, 3], [], [4]]


@pytest.mark.parametrize("kind", PARTITIONS)
def test_a_partition_follows_from_its_seed(kind):
    work = task(ids=8)
    first = owners(partition(kind), work)
    assert np.array_equal(first, owners(partition(kind), work))
    assert first.dtype == np.int32 and first.shape == (200,) and set(first) <= {-1, 0, 1, 2, 3}
    if kind != "natural_id":
        assert not np.array_equal(first, owners(partition(kind), task(ids=8, seed=1)))


@pytest.mark.parametrize("kind", PARTITIONS)
def test_a_partition_neither_uses_nor_moves_the_global_random_state(kind):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = owners(partition(kind), task(ids=8))
    assert random.random() == random.Random(1).random()
    assert np.random.random() == np.random.RandomState(1).random()  # noqa: NPY002
    assert np.array_equal(first, owners(partition(kind), task(ids=8)))


@pytest.mark.parametrize("kind", COVERING)
def test_every_row_has_an_owner(kind):
    assert (owners(partition(kind), task()) >= 0).all()


@given(
    count=st.integers(40, 300),
    clients=st.integers(1, 12),
    seed=st.integers(0, 2**63 - 1),
    alpha=st.floats(0.05, 100),
    kind=st.sampled_from(["iid", "dirichlet", "inner_dirichlet", "continuous", "shard"]),
)
def test_the_sizes_add_up(count, clients, seed, alpha, kind):
    options = {"alpha": alpha} if "dirichlet" in kind else {}
    rows = rows_of(owners(partition(kind, **options), task(count, clients, seed)), clients)
    sizes = [len(own) for own in rows]
    # Inner Dirichlet makes equal clients, shards have one size: what does not fill them is left.
    left = {"inner_dirichlet": count % clients, "shard": count % (2 * clients)}.get(kind, 0)
    assert sum(sizes) == len({row for own in rows for row in own.tolist()}) == count - left
    assert max(sizes) - min(sizes) <= {"dirichlet": count}.get(kind, 1)


def test_iid_clients_are_a_random_sample_although_the_rows_are_sorted():
    sorted_labels = Task(np.repeat(np.arange(10), 100), clients=10, seed=0)
    rows = rows_of(owners(partition("iid"), sorted_labels), 10)
    # About 10 of each class, hypergeometric with a deviation of 2.85: the bounds are 3.2 sigma on 100 counts, for a fixed seed.
    counts = np.array([np.bincount(sorted_labels.labels[own], minlength=10) for own in rows])
    assert counts.min() >= 1 and counts.max() <= 19


def test_linear_clients_grow_in_proportion():
    rows = rows_of(owners(partition("linear"), task(100)), 4)
    assert [len(own) for own in rows] == [10, 20, 30, 40]


def test_clients_of_given_sizes_have_them():
    assert [len(own) for own in rows_of(owners(partition("size"), task(150)), 4)] == [40, 30, 20, 10]


def test_pathological_clients_have_their_number_of_classes():
    work = task(400, clients=10, classes=8)
    rows = rows_of(owners(partition("pathological"), work), 10)
    assert {len(np.unique(work.labels[own])) for own in rows} == {3}


def test_the_smaller_alpha_the_less_alike_are_the_clients():
    def largest_class_share(alpha):
        work = task(4000, clients=10, classes=10)
        rows = rows_of(owners(partition("dirichlet", alpha=alpha), work), 10)
        return np.mean([np.bincount(work.labels[own]).max() / len(own) for own in rows if len(own)])

    assert largest_class_share(0.05) > 0.5 and largest_class_share(100.0) < 0.2


def test_a_dirichlet_client_may_be_without_data():
    rows = rows_of(owners(partition("dirichlet", alpha=0.05), task(100, clients=50)), 50)
    assert min(len(own) for own in rows) == 0 and sum(len(own) for own in rows) == 100


def test_a_natural_client_has_all_rows_of_one_id():
    work = task(ids=4)
    rows = rows_of(owners(partition("natural_id"), work), 4)
    assert [set(work.columns["client"][own].tolist()) for own in rows] == [{0}, {1}, {2}, {3}]


def test_of_more_ids_than_clients_a_seeded_choice_takes_part():
    def chosen(seed):
        work = task(ids=20, seed=seed)
        return [int(work.columns["client"][own[0]]) for own in rows_of(owners(partition("natural_id"), work), 4)]

    assert chosen(0) == sorted(set(chosen(0))) and len(chosen(0)) == 4
    assert chosen(0) != chosen(1)


def test_grouped_ids_stay_together():
    work = task(ids=8)
    rows = rows_of(owners(partition("grouped_natural_id"), work), 4)
    groups = [set(work.columns["client"][own].tolist()) for own in rows]
    assert [len(group) for group in groups] == [2, 2, 2, 2] and set().union(*groups) == set(range(8))


def test_a_column_of_numbers_orders_clients_where_nothing_blurs_it():
    work = task()
    rows = rows_of(owners(partition("continuous", partition_by="weight", strictness=1), work), 4)
    weights = [work.columns["weight"][own] for own in rows]
    assert all(low.max() < high.min() for low, high in itertools.pairwise(weights))


@pytest.mark.parametrize(
    ("kind", "options", "work", "says"),
    [
        ("natural_id", {}, task(ids=3), "data.partition: natural_id makes 3 parts of this data; lower clients.count from 4 to 3"),
        ("natural_id", {}, Task(np.zeros(9, int), 3, 0), "needs a column of client ids: name it as data.columns.client"),
        ("continuous", {"partition_by": "age"}, task(), "continuous: the data has no column `age`"),
        (
            "dirichlet",
            {},
            task(3),
            "3 samples cannot be shared among 4 clients; lower clients.count or raise data.samples.",
        ),
        ("dirichlet", {"min_partition_size": 99}, task(), "The max number of attempts (10) was reached"),
        ("linear", {}, task(20, clients=19), "partitions sizes that are not greater than 0. Change its options, clients.count"),
        ("shard", {}, task(40, clients=39), "shard cannot share 40 samples among 39 clients"),
        ("size", {}, task(clients=3), "`partition_sizes` has 4 entries, not 3"),
        ("pathological", {"num_classes_per_partition": 9}, task(), "`num_classes_per_partition`=9 is greater than the number"),
        ("distribution", {}, task(clients=5), "The number of partitions (5) is not divisible by the number of unique labels"),
    ],
)
def test_what_a_partitioner_cannot_do_is_one_sentence_about_data_partition(kind, options, work, says):
    with pytest.raises(ScenarioError) as error:
        owners(partition(kind, **options), work)
    assert str(error.value).startswith("data.partition: ") and says in str(error.value)


def test_a_partitioner_that_gives_a_sample_twice_is_refused(monkeypatch):
    class Twice(module.partitioners().IidPartitioner):
        def load_partition(self, partition_id):
            return self.dataset.select([0, 1])

    monkeypatch.setattr(module.partitioners(), "IidPartitioner", Twice)
    with pytest.raises(ScenarioError, match="iid gave one sample to several clients"):
        owners(partition("iid"), task())


def test_progress_bars_and_warnings_of_partitioners_do_not_reach_the_terminal(capfd, caplog):
    caplog.set_level("INFO", logger="fedapt")
    owners(partition("natural_id"), task())
    owners(partition("size"), task())
    assert capfd.readouterr() == ("", "")
    assert "The sum of partition sizes is 100" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        lambda work: (partition("dirichlet", alpha=0.4), work),
        lambda work: (partition("dirichlet"), task(seed=1)),
        lambda work: (partition("dirichlet"), task(clients=3)),
        lambda work: (partition("dirichlet"), Task(work.labels[::-1].copy(), 4, 0)),
        lambda work: (partition("natural_id"), work),
        lambda work: (partition("natural_id"), Task(work.labels, 4, 0, {"client": work.columns["client"][::-1].copy()})),
    ],
)
def test_the_cache_never_answers_another_question(other, monkeypatch):
    how, work = other(task())
    expected = owners(how, work)
    monkeypatch.undo()
    for kind in ("dirichlet", "natural_id"):
        owners(partition(kind), task())
    assert np.array_equal(owners(how, work), expected)


def test_the_partitioners_come_without_plots_and_a_second_time_from_the_cache_without_anything(tmp_path):
    code = """if True:
        import sys
        from fedapt.data import DataSpec, load
        load(DataSpec(samples=100, test_samples=10), 5, 0)
        print(sorted({"datasets", "flwr_datasets", "matplotlib", "seaborn", "torch", "ray"} & set(sys.modules)))
    """
    run = lambda: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code],
        env={"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert (run().stdout, run().stdout) == ("['datasets']\n", "[]\n")


def test_flwr_datasets_itself_can_still_be_imported():
    code = "from fedapt.data.owners import partitioners; p = partitioners(); import flwr_datasets as f; print(f.partitioner is p)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True)
    assert done.stdout == "True\n"
