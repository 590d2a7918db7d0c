"""fedapt.data.columns: which column is what, and labels as numbers."""

import json

import numpy as np
import pyarrow as pa
import pytest

from fedapt.data import columns
from fedapt.data.columns import (
    INPUTS,
    LABELS,
    choose,
    choose_clients,
    choose_input,
    class_names,
    is_text,
    signal_shape,
)
from fedapt.data.tables import Frame, Place
from fedapt.errors import SetupError

HERE = Place("a.parquet", "label")


def frame(metadata=None, **columns):
    table = pa.table(columns)
    return Frame("a.parquet", table.num_rows, table.schema.with_metadata(metadata), table.column)


def chunked(values, kind=None):
    """Return a column of two chunks."""
    array = pa.array(values, kind)
    return pa.chunked_array([array[:1], array[1:]])


@pytest.mark.parametrize("name", INPUTS)
def test_the_input_is_found_by_its_usual_names(name):
    assert choose(frame(**{name: [b"a"], "label": [1], "other": [2]}), None, INPUTS, "input") == name


@pytest.mark.parametrize("name", LABELS)
def test_the_label_is_found_by_its_usual_names(name):
    assert choose(frame(**{name: [1], "image": [b"a"]}), None, LABELS, "label") == name


def test_a_given_column_is_taken():
    assert choose(frame(image=[b"a"], thumbnail=[b"b"]), "thumbnail", INPUTS, "input") == "thumbnail"


@pytest.mark.parametrize(
    ("given", "present", "says"),
    [
        ("pic", {"image": [b"a"]}, r"data.columns.input: a.parquet has no column `pic`; its columns are image \(binary\)"),
        (
            None,
            {"image": [b"a"], "x": [1]},
            r"several candidates \(image, x\). Name it as data.columns.input; the columns are image",
        ),
        (
            None,
            {"a": [1], "b": [2.0]},
            r"none of the usual names. Name it as data.columns.input; the columns are a \(int64\), b \(do",
        ),
    ],
)
def test_a_column_that_cannot_be_told_is_told_with_all_columns(given, present, says):
    with pytest.raises(SetupError, match=says):
        choose(frame(**present), given, INPUTS, "input")


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({b"class_names": b'["cat", "dog"]'}, ("cat", "dog")),
        (
            {b"huggingface": json.dumps({"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}})},
            ("a", "b"),
        ),
        ({b"huggingface": json.dumps({"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}})}, None),
        ({b"class_names": b"[]"}, None),
        ({b"class_names": b"not JSON"}, None),
        ({b"huggingface": b'["no block"]'}, None),
        (None, None),
    ],
)
def test_class_names_come_from_the_metadata_where_they_are_there(metadata, names):
    assert class_names(frame(metadata, label=[0]), "label") == names


def test_named_labels_are_class_numbers_already():
    (labels,), names = columns.labels([chunked([2, 0], pa.uint8())], [HERE], ("a", "b", "c"))
    assert labels.tolist() == [2, 0] and labels.dtype == np.int64 and names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("train", "test", "codes", "names"),
    [
        (chunked([7, -1, 7]), chunked([3, 7]), [[2, 0, 2], [1, 2]], ("-1", "3", "7")),
        (chunked(["dog", "cat", "dog"]), chunked(["cow", "cat"]), [[2, 0, 2], [1, 0]], ("cat", "cow", "dog")),
        (chunked([1.0, 0.0, 1.0]), chunked([0.0, 1.0]), [[1, 0, 1], [0, 1]], ("0", "1")),
        (chunked([True, False, True]), chunked([True, False]), [[1, 0, 1], [1, 0]], ("0", "1")),
        (chunked(["b", "a", "b"]).dictionary_encode(), chunked(["a", "b"]), [[1, 0, 1], [0, 1]], ("a", "b")),
    ],
)
def test_other_labels_are_numbered_in_the_order_of_their_values(train, test, codes, names):
    labels, found = columns.labels([train, test], [HERE, HERE], None)
    assert [label.tolist() for label in labels] == codes and found == names


def test_text_labels_are_numbered_even_if_other_names_are_known():
    assert columns.labels([chunked(["b", "a"])], [HERE], ("x", "y"))[1] == ("a", "b")


@pytest.mark.parametrize(
    ("values", "names", "says"),
    [
        ([[1, None]], None, "a.parquet: column `label`: 1 of 2 rows have no value; leave those rows out."),
        ([[0, 3]], ("a", "b", "c"), "labels must be 0..2, one a class name, but they span 0..3."),
        ([[0, -1]], ("a", "b"), "labels must be 0..1, one a class name, but they span -1..0."),
        ([[0.5, 1.0]], None, "classes are whole numbers or text, but some values have a fraction"),
        ([[float("nan"), 1.0]], None, "classes are whole numbers or text, but some values have a fraction"),
        ([[[1], [2]]], None, "whole numbers or text are needed, but its type is list"),
        ([[1, 2], ["a", "b"]], None, "its labels and those of the training set are of different kinds"),
    ],
)
def test_labels_that_are_none_are_told(values, names, says):
    with pytest.raises(SetupError) as error:
        columns.labels([chunked(value) for value in values], [HERE] * len(values), names)
    assert says in str(error.value)


@pytest.mark.parametrize("values", [["u2", "u1", "u2"], [20, 3, 20], chunked(["b", "a", "b"]).dictionary_encode()])
def test_client_ids_of_any_kind_become_numbers_in_their_order(values):
    column = values if isinstance(values, pa.ChunkedArray) else chunked(values)
    assert columns.ids(column, HERE).tolist() == [1, 0, 1]


def test_images_come_before_texts_and_a_given_column_before_both():
    both = frame(image=[b"a"], text=["to be"], more=["or not"])
    assert [choose_input(both, given) for given in (None, "text", "more")] == ["image", "text", "more"]
    assert choose_input(frame(text=["to be"], label=[1]), None) == "text"
    assert is_text(both, "text") and not is_text(both, "image")
    with pytest.raises(SetupError, match="the input column cannot be told: the table has none of the usual names"):
        choose_input(frame(words=["to be"], label=[1]), None)


@pytest.mark.parametrize(
    ("given", "found"),
    [(None, ("speaker",)), ("play", ("play",)), (["speaker", "play"], ("speaker", "play"))],
)
def test_client_columns_are_the_given_ones_or_the_one_with_a_usual_name(given, found):
    assert choose_clients(frame(speaker=["a"], play=["b"]), given) == found
    assert choose_clients(frame(play=["b"]), None) == ()


def test_several_columns_of_clients_must_be_named():
    with pytest.raises(
        SetupError, match=r"the client column cannot be told: .* \(speaker, user\). Name it as data.columns.client"
    ):
        choose_clients(frame(speaker=["a"], user=["b"]), None)


def test_several_columns_tell_clients_apart_together():
    subject, device = chunked([2, 1, 2, 1, 2]), chunked(["sw", "sw", "sp", "sw", "sw"])
    # (1, sw) < (2, sp) < (2, sw)
    assert columns.client_ids([subject, device], [HERE, HERE]).tolist() == [2, 0, 1, 0, 2]
    assert columns.client_ids([subject], [HERE]).tolist() == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("about", "shape"), [(b"time-major: reshape(-1,50,6); x", (6, 50)), (b"reshape(-1, 9, 3)", (3, 9)), (b"flat", None)]
)
def test_the_metadata_say_how_signals_are_stored(about, shape):
    assert signal_shape(frame({b"feature_format": about}, x=[1])) == shape
    assert signal_shape(frame(x=[1])) is None


def test_texts_without_a_value_are_told():
    assert columns.texts(chunked(["a", "b"]), HERE) == ["a", "b"]
    with pytest.raises(SetupError, match="1 of 2 rows have no value"):
        columns.texts(chunked(["a", None]), HERE)


def test_numbers_are_read_and_what_is_none_is_told():
    assert columns.numbers(chunked([1, 2]), HERE).tolist() == [1.0, 2.0]
    with pytest.raises(SetupError, match="a column of numbers is needed, but its type is string"):
        columns.numbers(chunked(["a", "b"]), HERE)
    with pytest.raises(SetupError, match="some of its numbers are missing or not finite"):
        columns.numbers(chunked([1.0, None]), HERE)
