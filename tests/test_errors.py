"""fedapt.errors: sentences that may quote anything."""

import pickle

import pytest

from fedapt import errors

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_sentence_cannot_steer_a_terminal_nor_fail_to_be_written(kind):
    assert str(kind("layer \x1b[31m\ud800 é:\nis missing")) == "layer \\x1b[31m\\ud800 é:\nis missing"


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_way_between_processes(kind):
    back = pickle.loads(pickle.dumps(kind("layer \0 is missing")))  # noqa: S301
    assert type(back) is kind and str(back) == "layer \\x00 is missing"
