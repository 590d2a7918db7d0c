"""fedapt.data.source: choosing rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedapt.data.source import class_numbers, of_classes, sample, split_off
from fedapt.errors import ScenarioError, SetupError


@given(count=st.integers(2, 200), share=st.floats(0.001, 0.999), seed=st.integers(0, 9))
def test_a_split_is_disjoint_complete_ascending_and_never_empty(count, share, seed):
    train, test = split_off(count, share, seed)
    assert sorted([*train, *test]) == list(range(count)) and len(train) and len(test)
    assert (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
    assert abs(len(test) - count * share) <= 1


def test_a_split_follows_from_the_seed():
    assert split_off(50, 0.2, 0)[1].tolist() == split_off(50, 0.2, 0)[1].tolist() != split_off(50, 0.2, 1)[1].tolist()


def test_one_sample_cannot_be_split():
    with pytest.raises(SetupError, match=r"1 samples are too few .* `data\.test`"):
        split_off(1, 0.5, 0)


def test_a_sample_is_a_seeded_random_part_of_the_rows_in_their_order():
    rows = np.arange(100) * 3
    chosen = sample(rows, 10, 0, "train")
    assert len(chosen) == 10 and set(chosen) <= set(rows) and (np.diff(chosen) > 0).all()
    assert chosen.tolist() == sample(rows, 10, 0, "train").tolist() != sample(rows, 10, 1, "train").tolist()
    assert chosen.tolist() != rows[:10].tolist()


@pytest.mark.parametrize("count", [None, 5, 6])
def test_all_rows_are_used_where_there_are_no_more(count):
    assert sample(np.arange(5), count, 0, "train").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("wanted", "names", "numbers"),
    [
        (None, ("a", "b"), None),
        ([1, "a"], ("a", "b", "c"), [0, 1]),
        # Where the labels are numbers, a number is the label: 10 is the last of these, and 0 none.
        ([10, "2"], tuple(map(str, range(1, 11))), [1, 9]),
        ([-1], ("-1", "1"), [0]),
    ],
)
def test_classes_are_chosen_by_name_or_number(wanted, names, numbers):
    found = class_numbers(wanted, names)
    assert (found if found is None else found.tolist()) == numbers


@pytest.mark.parametrize(
    ("wanted", "names", "sentence"),
    [
        ([0], ("1", "2"), r"data\.classes: there is no class 0; there are 1, 2\."),
        (["d"], ("a", "b"), r"there is no class `d`; there are 0 to 1, by name a, b\."),
        (["b", 1], ("a", "b"), r"the class 1 is there twice"),
        ([99], tuple(map(str, range(20))), r"there are 0, .*, 11 and 8 more\."),
    ],
)
def test_a_class_that_is_not_there_or_there_twice_is_refused(wanted, names, sentence):
    with pytest.raises(ScenarioError, match=sentence):
        class_numbers(wanted, names)


def test_the_rows_of_classes_are_those_with_their_labels():
    rows, labels = np.array([3, 5, 8, 9]), np.array([2, 0, 1, 2])
    assert of_classes(rows, labels, np.array([1, 2]), "training").tolist() == [3, 8, 9]
    assert of_classes(rows, labels, None, "training") is rows
    with pytest.raises(SetupError, match="the test set has no sample of these classes"):
        of_classes(rows, labels, np.array([7]), "test")
