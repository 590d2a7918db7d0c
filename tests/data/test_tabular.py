"""fedapt.data.tabular: samples from tables, and which of them are the test set."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedapt.data import DataShape, DataSpec, load
from fedapt.data.tabular import tabular
from fedapt.errors import ScenarioError, SetupError


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


SPEECHES = {"text": ["to be", "or not", "I die", "farewell"], "speaker": ["h", "h", "o", "h"], "split": ["train"] * 3 + ["test"]}


def speeches(tmp_path, **more):
    pq.write_table(pa.table({**SPEECHES, **more}), tmp_path / "a.parquet")
    return str(tmp_path / "a.parquet")


def test_text_without_labels_is_characters_that_follow_one_another(tmp_path):
    windows = {"kind": "characters", "length": 4, "stride": 3}
    source = tabular(DataSpec(source=speeches(tmp_path), tokens=windows, partition="natural_id"), 0)
    names = [source.class_names[label] for label in source.labels]
    # Each third character of "to be\nor not" and of "I die".
    assert names == [*"bon", "i"] and [source.class_names[label] for label in source.test_labels] == ["e", "l"]
    assert source.columns["client"].tolist() == [0, 0, 0, 1] and source.vocabulary == 98
    assert [inputs.shape for inputs in source.inputs(None)] == [(4, 4), (2, 4)]


def test_text_with_labels_is_words(tmp_path):
    source = tabular(DataSpec(source=speeches(tmp_path, label=["a", "b", "a", "b"]), tokens={"kind": "words", "length": 3}), 0)
    assert source.labels.tolist() == [0, 1, 0] and source.class_names == ("a", "b") and source.vocabulary == 4096
    assert (source.inputs(None)[0] > 0).sum(1).tolist() == [2, 2, 2]


def test_samples_of_running_text_are_windows(tmp_path):
    spec = DataSpec(source=speeches(tmp_path), tokens={"kind": "characters", "stride": 1}, samples=5, test_samples=2)
    source = tabular(spec, 0)
    assert (len(source.labels), len(source.test_labels)) == (5, 2)
    assert [len(inputs) for inputs in source.inputs(None)] == [5, 2]


def test_the_column_of_a_partition_follows_the_windows(tmp_path):
    options = {"tokens": {"kind": "characters", "stride": 5}, "partition": {"kind": "continuous", "partition_by": "age"}}
    source = tabular(DataSpec(source=speeches(tmp_path, age=[1.0, 2.0, 3.0, 4.0]), **options), 0)
    # Of "to be\nor not" the characters 5 and 10, the end of the first line and the `o` of `not`; of "I die" the last one.
    assert source.columns["age"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tokens": "words"}, "the label column cannot be told"),
        ({"shape": [1, 2, 2]}, "data.shape is for images and signals; the length of texts is data.tokens.length"),
        ({"columns": {"label": "mood"}}, "has no column `mood`"),
    ],
)
def test_options_that_do_not_fit_a_text_are_told(tmp_path, options, says):
    with pytest.raises(SetupError, match=says):
        tabular(DataSpec(source=speeches(tmp_path), **options), 0)


def test_tokens_of_numbers_are_refused(tmp_path):
    path = write(tmp_path / "a.parquet", range(4))
    with pytest.raises(SetupError, match=r"column `x`: data.tokens are for text, which this column is not"):
        tabular(DataSpec(source=path, tokens="words"), 0)


def test_a_signal_is_cut_out_of_a_flat_list(tmp_path):
    pq.write_table(pa.table({"x": [[1.0, 2.0, 3.0, 4.0]] * 4, "y": [0, 1] * 2}), tmp_path / "a.parquet")
    source = tabular(DataSpec(source=str(tmp_path / "a.parquet"), shape=[2, 2]), 0)
    assert source.inputs(None)[0][0].tolist() == [[1.0, 3.0], [2.0, 4.0]]


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


def test_activity_windows_are_signals_federated_by_subject(shared_data):
    spec = DataSpec(source=str(shared_data / "har_windows.parquet"), partition="natural_id", held_out=0.0)
    federation = load(spec, 23, 0)
    table = pq.read_table(shared_data / "har_windows.parquet", columns=["subject", "split", "features"]).to_pandas()
    training = table[table.split == "train"]
    assert [len(rows) for rows in federation.rows] == training.groupby("subject").size().tolist()
    assert federation.data_shape == DataShape((6, 50), 5) and len(federation.test.labels) == (table.split == "test").sum()
    # The six numbers of the third step of a window are neighbours in the file, and a column here.
    assert federation.train.inputs[0, :, 2].tolist() == training.features.iloc[0][12:18].tolist()


def test_subjects_with_two_devices_are_two_clients_if_asked_for(shared_data):
    columns = {"client": ["subject", "device"]}
    spec = DataSpec(source=str(shared_data / "har_windows.parquet"), columns=columns, partition="natural_id")
    assert load(spec, 46, 0).without_data == ()
    with pytest.raises(ScenarioError, match=r"natural_id makes 46 parts of this data; lower clients.count from 47 to 46"):
        load(spec, 47, 0)


def test_banking_questions_are_words(shared_data):
    federation = load(DataSpec(source=str(shared_data / "banking77_train.parquet")), 3, 0)
    assert federation.data_shape == DataShape((32,), 77, 4096) and federation.train.inputs.dtype == np.uint16
    assert (len(federation.train.labels), len(federation.test.labels)) == (10_003, 3_080)


def test_shakespeare_is_characters_by_speaker(shared_data):
    spec = DataSpec(source=str(shared_data / "tiny_shakespeare.parquet"), partition="natural_id", held_out=0.0)
    federation = load(spec, 299, 0)
    assert federation.data_shape == DataShape((80,), 97, 98) and federation.train.inputs.dtype == np.uint8
    table = pq.read_table(shared_data / "tiny_shakespeare.parquet").to_pandas()
    lines = table[table.split == "train"].groupby("speaker").text.agg("\n".join)
    assert [len(rows) for rows in federation.rows] == [max(1, (len(line) - 1) // 10) for line in lines]
    with pytest.raises(ScenarioError, match=r"natural_id makes 299 parts of this data; lower clients.count from 300 to 299"):
        load(spec, 300, 0)


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


def test_classes_of_a_table_are_chosen_before_samples_and_keep_their_numbers(tmp_path):
    path = write(tmp_path / "a_train.parquet", range(8), labels=["ant", "bee", "cat", "cat"] * 2)
    write(tmp_path / "a_test.parquet", [8, 9, 10], labels=["cat", "ant", "dog"])
    source = tabular(DataSpec(source=path, classes=["cat", 1], samples=5), 0)
    train, test = samples(source)
    assert len(train) == 5 and set(train) <= {1, 2, 3, 5, 6, 7} and test == [8]
    assert source.labels.tolist() == [1 if value % 4 == 1 else 2 for value in train]
    assert source.class_names == ("ant", "bee", "cat", "dog")


def test_a_partition_sees_the_rows_of_the_chosen_classes(tmp_path):
    path = write(tmp_path / "a.parquet", range(8), labels=[0, 1] * 4, split=["train"] * 6 + ["test"] * 2, client=list("aabbccdd"))
    source = tabular(DataSpec(source=path, classes=[1], partition={"kind": "natural_id"}), 0)
    assert samples(source) == [[1, 3, 5], [7]] and source.columns["client"].tolist() == [0, 1, 2]


def test_running_text_has_no_classes_to_choose(tmp_path):
    pq.write_table(pa.table({"text": ["to be or not to be", "that is the question"]}), tmp_path / "a.parquet")
    with pytest.raises(ScenarioError, match=r"data\.classes: running text has no labels to choose by"):
        tabular(DataSpec(source=str(tmp_path / "a.parquet"), classes=[1]), 0)
