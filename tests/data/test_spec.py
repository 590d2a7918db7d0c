"""fedapt.data.spec: the options of the `data:` block."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from fedapt.data import DataSpec, is_path


def test_the_default_is_sixty_thousand_strokes_shared_out_at_random():
    spec = DataSpec()
    assert (spec.source, spec.samples, spec.held_out, spec.partition.kind) == ("strokes", None, 0.1, "iid")


@pytest.mark.parametrize(
    "options",
    [
        {"held_out": 1.0},
        {"test_share": 0.0},
        {"samples": 0},
        {"shape": []},
        {"shape": [1, 2, 3, 4]},
        {"shape": [0]},
        {"columns": {"text": "x"}},
        {"columns": {"client": []}},
        {"tokens": "wods"},
        {"tokens": {"kind": "words", "vocabulary": 1}},
        {"tokens": {"kind": "characters", "vocabulary": 100}},
        {"sauce": "strokes"},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValidationError):
        DataSpec(**options)


@pytest.mark.parametrize(
    ("option", "value"), [("test", "x.parquet"), ("columns", {"label": "y"}), ("shape", [1, 8, 8]), ("tokens", {"kind": "words"})]
)
@pytest.mark.parametrize("source", ["strokes", "digits"])
def test_options_that_a_built_in_source_would_ignore_are_refused(source, option, value):
    with pytest.raises(ValidationError, match=f"`{option}` describes a file .* but the source `{source}` is built in"):
        DataSpec(source=source, **{option: value})
    assert DataSpec(source="a.parquet", **{option: value}).source == "a.parquet"


def test_tokens_are_a_name_or_a_block():
    assert DataSpec(tokens="words", source="a.parquet") == DataSpec(tokens={"kind": "words"}, source="a.parquet")
    assert DataSpec().tokens is None


def test_every_option_is_described():
    assert all(field.description for field in DataSpec.model_fields.values())


@pytest.mark.parametrize("source", ["a/b", "/a", "./a", "a.parquet", "a\\b", "~/a"])
def test_a_path_has_a_separator_or_the_suffix(source):
    assert is_path(source, Path("/nowhere"))


@pytest.mark.parametrize("source", ["strokes", "digits", "hub:owner/name", "fashion_mnist"])
def test_names_are_no_paths(source):
    assert not is_path(source, Path("/nowhere"))


def test_what_exists_is_a_path_but_for_built_in_names(tmp_path):
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "digits").mkdir()
    assert is_path("cifar10", tmp_path) and not is_path("digits", tmp_path)


@pytest.mark.parametrize("classes", [[], [1.5], [True], 3, "all"])
def test_classes_are_a_list_of_numbers_and_names(classes):
    with pytest.raises(ValidationError):
        DataSpec(classes=classes)
