"""fedapt.data.tabular: samples from tables, and which of them are the test set."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedapt.data import DataSpec, load
from fedapt.data.tabular import tabular
from fedapt.errors import SetupError


def write(path, values, labels=None, metadata=None, **more):
    """Write samples with one feature each, from which a test recognises them."""
    columns = {
        "x": pa.array([[float(value)] for value in values], pa.list_(pa.float32(), 1)),
        "y": labels or [0, 1] * (len(values) // 2),
    }
    pq.write_table(pa.table({**columns, **more}).replace_schema_metadata(metadata), path)
    return str(path)


def samples(source):
    """Return the features of the training and of the test samples."""
    return [inputs[:, 0].tolist() for inputs in source.inputs(None)]


def test_the_file_beside_a_training_file_is_the_test_set(tmp_path):
    train, _ = write(tmp_path / "a_train.parquet", [1, 2, 3, 4]), write(tmp_path / "a_test.parquet", [5, 6])
    source = tabular(DataSpec(source=train), 0)
    assert samples(source) == [[1, 2, 3, 4], [5, 6]]
    assert source.labels.tolist() == [0, 1, 0, 1] and source.test_labels.tolist() == [0, 1] and source.class_names == ("0", "1")


@pytest.mark.parametrize(("train", "test"), [("train.parquet", "test.parquet"), ("a-b-train.parquet", "a-b-test.parquet")])
def test_the_file_beside_is_found_by_the_last_word_of_its_name(tmp_path, train, test):
    path, _ = write(tmp_path / train, [1, 2]), write(tmp_path / test, [3, 4])
    assert samples(tabular(DataSpec(source=path), 0))[1] == [3, 4]


def test_a_test_file_that_is_named_comes_before_all_others(tmp_path):
    train, _ = write(tmp_path / "a_train.parquet", [1, 2]), write(tmp_path / "a_test.parquet", [5, 6])
    other = write(tmp_path / "other.parquet", [7, 8])
    assert samples(tabular(DataSpec(source=train, test=other), 0)) == [[1, 2], [7, 8]]


def test_a_split_column_tells_the_test_samples(tmp_path):
    path = write(tmp_path / "a.parquet", range(6), split=["train", "test", "train", "unused", "test", "train"])
    source = tabular(DataSpec(source=path), 0)
    assert samples(source) == [[0, 2, 5], [1, 4]]
    assert source.labels.tolist() == [0, 0, 1] and source.test_labels.tolist() == [1, 0]


@pytest.mark.parametrize("more", [{}, {"split": ["train"] * 10}, {"split": list(range(10))}])
def test_otherwise_a_seeded_share_is_the_test_set(tmp_path, more):
    path = write(tmp_path / "a.parquet", range(10), **more)
    train, test = samples(tabular(DataSpec(source=path, test_share=0.3), 0))
    assert sorted(train + test) == list(range(10)) and len(test) == 3
    assert samples(tabular(DataSpec(source=path, test_share=0.3), 0)) == [train, test]
    assert samples(tabular(DataSpec(source=path, test_share=0.3), 1)) != [train, test]


@pytest.mark.parametrize(("split", "test"), [("test", [3, 4]), ("validation", [3, 4]), ("extra", None)])
def test_the_own_test_split_of_a_saved_data_set_is_used(tmp_path, split, test):
    part = lambda *values: datasets.Dataset.from_dict({"x": [[float(v)] for v in values], "y": [0, 1]})  # noqa: E731
    datasets.DatasetDict({"train": part(1, 2), split: part(3, 4)}).save_to_disk(tmp_path / "saved")
    found = samples(tabular(DataSpec(source=str(tmp_path / "saved")), 0))
    assert found == [[1, 2], test] if test else sorted(found[0] + found[1]) == [1, 2]


def test_class_names_of_hugging_face_survive_on_disk(tmp_path):
    features = datasets.Features(x=datasets.List(datasets.Value("float32")), y=datasets.ClassLabel(names=["cat", "dog", "cow"]))
    data = datasets.Dataset.from_dict({"x": [[1.0], [2.0]], "y": [1, 0]}, features)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "a.parquet")
    for path in ("saved", "a.parquet"):
        assert tabular(DataSpec(source=str(tmp_path / path)), 0).class_names == ("cat", "dog", "cow")


def test_classes_do_not_change_with_the_samples_that_are_used(tmp_path):
    path = write(tmp_path / "a_train.parquet", range(6), [10, 20, 30, 40, 50, 60])
    write(tmp_path / "a_test.parquet", [9], [70])
    few, all_of_them = (tabular(DataSpec(source=path, samples=count), 0) for count in (2, None))
    assert few.class_names == all_of_them.class_names == ("10", "20", "30", "40", "50", "60", "70")
    assert [few.labels[i] for i in range(2)] == [int(value) for value in samples(few)[0]]


def test_the_partition_gets_the_column_it_looks_at(tmp_path):
    path = write(
        tmp_path / "a.parquet", range(10), split=["train", "test"] * 5, who=list("bbaaccaabb"), age=[0.5 * i for i in range(10)]
    )
    natural = DataSpec(source=path, columns={"client": "who"}, partition="natural_id")
    assert tabular(natural, 0).columns["client"].tolist() == [1, 0, 2, 0, 1]
    continuous = DataSpec(source=path, partition={"kind": "continuous", "partition_by": "age"})
    assert tabular(continuous, 0).columns["age"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert tabular(DataSpec(source=path), 0).columns == {}


@pytest.mark.parametrize(
    ("options", "test", "says"),
    [
        (
            {"columns": {"client": "who"}, "partition": "natural_id"},
            {},
            "data.columns.client: .* has no column `who`; its columns are x",
        ),
        ({}, {"y": ["a", "b"]}, "its labels and those of the training set are of different kinds"),
        (
            {},
            {"x": [[1.0, 2.0], [3.0, 4.0]]},
            r"the samples of the test set are \[2\] float32, but those of the training set \[1\] float32",
        ),
        ({}, {"z": [1, 2]}, "a_test.parquet has no column `y`"),
        ({}, {"x": pa.array([], pa.list_(pa.float32())), "y": pa.array([], pa.int64())}, "a_test.parquet holds no rows"),
    ],
)
def test_a_table_that_does_not_fit_is_told(tmp_path, options, test, says):
    path = write(tmp_path / "a_train.parquet", [1, 2])
    columns = {"x": [[1.0], [2.0]], "y": [0, 1], **test}
    pq.write_table(
        pa.table({name: columns[name] for name in columns if "z" not in test or name != "y"}), tmp_path / "a_test.parquet"
    )
    with pytest.raises(SetupError, match=says):
        tabular(DataSpec(source=path, **options), 0).inputs(None)


def test_a_data_set_without_a_training_split_is_told(tmp_path):
    part = datasets.Dataset.from_dict({"x": [[1.0]], "y": [0]})
    datasets.DatasetDict(left=part, right=part).save_to_disk(tmp_path / "saved")
    with pytest.raises(SetupError, match=r"data\.source: there is no split `train`, only left, right"):
        tabular(DataSpec(source=str(tmp_path / "saved")), 0)


def test_fashion_mnist_is_read_pixel_for_pixel(shared_data):
    federation = load(DataSpec(source=str(shared_data / "fashion_mnist_train.parquet"), partition="iid"), 100, 0)
    assert federation.train.inputs.shape == (60_000, 1, 28, 28) and federation.test.inputs.shape == (10_000, 1, 28, 28)
    assert federation.class_names[:2] == ("T-shirt/top", "Trouser") and federation.classes == 10
    # The published mean and deviation of the training images.
    assert federation.train.mean == pytest.approx([0.2860], abs=2e-3) and federation.train.std == pytest.approx(
        [0.3530], abs=2e-3
    )
    last = pq.read_table(shared_data / "fashion_mnist_test.parquet").slice(9_999).to_pylist()[0]
    assert federation.test.inputs[-1].tobytes() == last["image"] and federation.test.labels[-1] == last["label"]


def test_cifar10_is_decoded(shared_data):
    federation = load(DataSpec(source=str(shared_data / "cifar10_train.parquet"), samples=500, test_samples=200), 5, 0)
    assert federation.train.inputs.shape == (500, 3, 32, 32) and federation.test.inputs.shape == (200, 3, 32, 32)
    # The published means of the three channels; 500 images of about 0.12 deviation of their own mean allow 5 sigma = 0.027.
    assert federation.train.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.027)


def test_activity_windows_are_federated_by_subject(shared_data):
    spec = DataSpec(
        source=str(shared_data / "har_windows.parquet"), columns={"client": "subject"}, partition="natural_id", held_out=0.0
    )
    federation = load(spec, 23, 0)
    table = pq.read_table(shared_data / "har_windows.parquet", columns=["subject", "split"]).to_pandas()
    expected = table[table.split == "train"].groupby("subject").size().tolist()
    assert [len(rows) for rows in federation.rows] == expected
    assert federation.shape == (300,) and len(federation.test.labels) == (table.split == "test").sum()


@pytest.mark.parametrize("name", ["banking77_train", "tiny_shakespeare"])
def test_text_is_refused_politely(shared_data, name):
    with pytest.raises(SetupError, match=f"{name}.parquet seems to hold text; this version trains on images and feature vectors"):
        load(DataSpec(source=str(shared_data / f"{name}.parquet")), 3, 0)


def test_the_folder_of_all_data_sets_is_too_much(shared_data):
    with pytest.raises(SetupError, match="have different columns; name one"):
        load(DataSpec(source=str(shared_data)), 3, 0)


def test_only_the_inputs_that_are_used_are_decoded(shared_data, monkeypatch):
    from fedapt.data import inputs as module

    decoded = []
    monkeypatch.setattr(
        module, "_images", lambda values, place: decoded.append(len(values)) or np.zeros((len(values), 1, 2, 2), np.uint8)
    )
    load(DataSpec(source=str(shared_data / "cifar10_train.parquet"), samples=30, test_samples=20), 3, 0)
    assert decoded == [30, 20]
