"""fedapt.data.windows: running text cut into windows and what follows them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedapt.data.tables import Place
from fedapt.data.tokens import ALPHABET, Characters
from fedapt.data.windows import windows
from fedapt.errors import SetupError

HERE = Place("a.parquet", "text")


def written(codes):
    """Return windows as text, padding as `_`."""
    return ["".join("_" if code == 0 else ALPHABET[code - 1] for code in row) for row in codes]


def pairs(found):
    return list(zip(written(found.inputs()), written(found.labels[:, None] + 1), strict=True))


def test_each_window_is_followed_by_its_label():
    found = windows(["abcdefg"], np.array([0]), Characters(length=3, stride=2), HERE)
    assert pairs(found) == [("_ab", "c"), ("bcd", "e"), ("def", "g")]
    assert found.inputs().dtype == np.uint8 and found.labels.dtype == np.int64


def test_the_texts_of_a_client_are_one_and_never_run_into_those_of_another():
    found = windows(["ab", "xyz", "cd"], np.array([1, 0, 1]), Characters(length=4, stride=1), HERE)
    assert pairs(found) == [
        ("___x", "y"), ("__xy", "z"),
        ("___a", "b"), ("__ab", "\n"), ("_ab\n", "c"), ("ab\nc", "d"),
    ]  # fmt: skip


def test_a_window_belongs_to_the_row_of_its_label():
    found = windows(["ab", "xyz", "cd"], np.array([1, 0, 1]), Characters(length=4, stride=1), HERE)
    assert found.rows.tolist() == [1, 1, 0, 0, 2, 2]


def test_a_client_with_less_than_a_stride_has_one_window_and_with_one_character_none():
    found = windows(["abc", "z", ""], np.array([0, 1, 2]), Characters(length=2, stride=10), HERE)
    assert pairs(found) == [("ab", "c")]


def test_texts_without_two_characters_are_told():
    with pytest.raises(SetupError, match=r"a.parquet: column `text`: its texts are too short to predict a character"):
        windows(["a", ""], np.array([0, 1]), Characters(), HERE)


@given(
    texts=st.lists(st.text(st.sampled_from("abc\n"), min_size=2, max_size=30), min_size=1, max_size=6),
    length=st.integers(1, 9),
    stride=st.integers(1, 9),
)
def test_windows_are_what_a_loop_would_cut(texts, length, stride):
    clients = np.arange(len(texts)) % 2
    expected = []
    for client in (0, 1):
        line = "\n".join(text for text, owner in zip(texts, clients, strict=True) if owner == client)
        for end in range(min(stride, len(line) - 1), len(line), stride) if len(line) > 1 else ():
            expected.append((line[max(0, end - length) : end].rjust(length, "_"), line[end]))
    assert pairs(windows(texts, clients, Characters(length=length, stride=stride), HERE)) == expected


def test_some_of_the_windows_keep_their_labels_and_rows():
    found = windows(["abcdefg", "hi"], np.array([0, 1]), Characters(length=3, stride=2), HERE)
    some = found.only(np.array([1, 3]))
    assert pairs(some) == [("bcd", "e"), ("__h", "i")] and some.rows.tolist() == [0, 1]


@pytest.mark.parametrize("wrong", [{"length": 10**12}, {"stride": 10**23}])
def test_windows_that_no_array_could_hold_are_refused(wrong):
    with pytest.raises(ValidationError):
        Characters(**wrong)
