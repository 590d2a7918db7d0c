import json
import math
from contextlib import suppress

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from fedapt.record.plain import NotPlain, pack, unpack

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda values: (
        st.lists(values)
        | st.lists(values).map(tuple)
        | st.dictionaries(st.text() | st.just("$"), values)
        | st.dictionaries(st.integers(), values)
    ),
)


def there_and_back(value: object) -> object:
    """Through the bytes of both files."""
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(pack(value, arrays, "state"), allow_nan=False)
    return unpack(json.loads(text), load(save(arrays)))


@given(VALUES)
def test_plain_values_come_back_equal_and_of_the_same_types(value: object) -> None:
    assert repr(there_and_back(value)) == repr(value)


@pytest.mark.parametrize("dtype", ["bool", "float16", "float32", "float64", "int8", "uint64"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_arrays_keep_shape_type_and_bits_and_can_be_written_to(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    back = there_and_back({"m": array})["m"]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())
    back[...] = 0


def test_memory_that_lies_in_another_order_is_stored_by_its_values() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert there_and_back([array.T, array[:, ::2]])[0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert there_and_back([array.T, array[:, ::2]])[1].tolist() == [[0, 2], [3, 5]]


def test_nan_keeps_its_bits_in_an_array() -> None:
    array = np.array([0x7FC00001, 0xFFC00000], np.uint32).view(np.float32)
    assert there_and_back(array).tobytes() == array.tobytes()


def test_a_number_of_numpy_stays_one_because_it_computes_otherwise() -> None:
    back = there_and_back([np.float64(0.1), 0.1, np.float32(1), np.bool_(True)])
    assert [type(number) for number in back] == [np.float64, float, np.float32, np.bool_]


def test_an_array_record_comes_back() -> None:
    record = ArrayRecord({"conv1.weight": Array(np.ones((2, 2), np.float32)), "bias": Array(np.zeros(3))})
    back = there_and_back((record,))[0]
    assert isinstance(back, ArrayRecord) and list(back) == ["conv1.weight", "bias"]
    assert all(np.array_equal(back[name].numpy(), record[name].numpy()) for name in record)


def test_two_names_that_would_meet_are_kept_apart() -> None:
    value = {"a.b": {"c": np.zeros(1)}, "a": {"b.c": np.ones(1)}}
    assert [there_and_back(value)["a.b"]["c"][0], there_and_back(value)["a"]["b.c"][0]] == [0, 1]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ({"m_t": [1, {2}]}, r"state\.m_t\.1 is a set"),
        (lambda: 1, "state is a function"),
        (np.array([object()]), "state is an array of object"),
        (np.array(["x"]), "state is an array of <U1"),
        (type("Float", (float,), {})(1.0), "state is a Float"),
    ],
)
def test_what_is_not_plain_is_named_with_its_place(value: object, sentence: str) -> None:
    with pytest.raises(NotPlain, match=sentence):
        pack({"m_t": value}["m_t"], {}, "state")


@given(st.sampled_from(["float", "tuple", "dict", "record", "array", "number", "os.system"]), VALUES)
def test_a_tagged_value_of_anything_is_plain_data_or_refused(tag: str, value: object) -> None:
    with suppress(ValueError, KeyError, TypeError):
        assert plain(unpack(json.loads(json.dumps({"$": tag, "items": value, "value": value, "name": value})), {}))


def plain(value: object) -> bool:
    if isinstance(value, (dict, ArrayRecord)):
        return all(plain(key) and plain(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, Array)
