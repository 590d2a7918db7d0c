"""fedapt.pretrained: weights that a model begins with, and what a run keeps of them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from fedapt.errors import DamagedData, SetupError
from fedapt.pretrained import FILE, Origin, Pretrained, kept, unpack, weights_of

BODY, HEAD = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((4, 2), np.float32)
MODEL = {"body": np.zeros((2, 3), np.float32), "head": np.zeros((10, 2), np.float32), "bias": np.zeros(10, np.float32)}


def begun(origin=None):
    return Pretrained({"body": BODY, "head": HEAD}, origin or Origin("a.parquet", 4, 100, 5, 0.25, 0.9))


def test_what_fits_is_taken_over_and_the_rest_stays_the_models():
    into = begun().into(MODEL)
    assert list(into.arrays) == ["body", "head", "bias"] and into.arrays["body"] is BODY
    assert into.arrays["head"] is MODEL["head"] and into.origin.own == ("head", "bias") and into.origin.epochs == 5


def test_weights_of_which_nothing_fits_are_refused_with_the_shapes():
    with pytest.raises(SetupError, match=r"a\.parquet: no weight .*: there are body \[2, 3\], .* has x \[3\]"):
        begun().into({"x": np.zeros(3)})


def test_a_bias_alone_is_no_fit():
    with pytest.raises(SetupError, match="no weight"):
        Pretrained({"bias": np.ones(10)}, Origin("a")).into(MODEL)


def test_what_a_run_keeps_is_read_back_with_where_it_comes_from(tmp_path):
    assert kept(tmp_path) is None
    begun().write(tmp_path)
    found = kept(tmp_path)
    assert found.origin == begun().origin and np.array_equal(found.arrays["head"], HEAD)
    assert begun().packed() == begun().packed() == (tmp_path / FILE).read_bytes()


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b[:-1] + b"\1", lambda b: b"\xff" * 8 + b[8:]])
def test_a_damaged_file_is_found_out(damage):
    with pytest.raises(DamagedData, match="here cannot be read"):
        unpack(damage(begun().packed()), "here")


def test_any_safetensors_file_gives_its_floats_in_fp32(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_tensors({"a": torch.tensor([1.5, 2.5], dtype=torch.bfloat16), "count": torch.tensor(3)}, path)
    weights = weights_of(path)
    assert {name: values.tolist() for name, values in weights.arrays.items()} == {"a": [1.5, 2.5]}
    assert weights.arrays["a"].dtype == np.float32 and weights.origin == Origin(str(path))


def test_a_file_that_is_missing_damaged_or_not_finite_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(SetupError, match=r"pretrain\.file: .*absent cannot be read \(No such file or directory\)"):
        weights_of(tmp_path / "absent")
    (tmp_path / "damaged").write_bytes(b"no weights")
    with pytest.raises(DamagedData, match=r"pretrain\.file: .*damaged is no whole safetensors file"):
        weights_of(tmp_path / "damaged")
    save_file({"a": np.array([1, np.inf], np.float32)}, tmp_path / "infinite")
    with pytest.raises(DamagedData, match="infinite: a holds an infinity or a NaN"):
        weights_of(tmp_path / "infinite")
