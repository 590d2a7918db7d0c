"""Pydantic's errors become sentences: in words, with a place, and without labels of unions."""

from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from fedapt.options import Bytes, Kind, Options
from fedapt.reading.explain import describe, explain, suggest
from fedapt.reading.yaml_source import read_bytes


class Trim(Kind):
    kind: Literal["trim"] = "trim"
    trim: int = Field(description="updates cut on each side")


class Mean(Kind):
    kind: Literal["mean"] = "mean"


class Block(Options):
    how: Annotated[Trim | Mean, Field(discriminator="kind")] = Mean()
    items: list[Annotated[Trim | Mean, Field(discriminator="kind")]] = Field(default_factory=list)
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    alpha: Annotated[float, Field(gt=0)] | list[Annotated[float, Field(gt=0)]] = 1.0
    size: Bytes | None = None
    widths: dict[str, Annotated[int, Field(le=16)]] = Field(default_factory=dict)
    mode: Literal["fast", "slow"] = "fast"
    label: str = Field("x", min_length=1, pattern="^x", description="text that begins with x")
    flag: bool = False


def said(text: str) -> list[str]:
    source = read_bytes(text.encode(), "a.yaml")
    with pytest.raises(ValidationError) as error:
        Block.model_validate(source.data)
    return [str(problem) for problem in sorted(explain(error.value, Block, source))]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("how: {kind: trim, trim: x}", "a.yaml:1:25: how.trim: expected a whole number, found the text `x`"),
        ("how: {kind: trim}", "a.yaml:1:1: how: `trim` is missing; add it (updates cut on each side)"),
        ("how: {kind: trimm, trim: 1}", "a.yaml:1:13: how: unknown kind `trimm`; did you mean `trim`?"),
        ("how: {kind: zzz}", "a.yaml:1:13: how: unknown kind `zzz`; known: trim, mean"),
        ("how: {trim: 1}", "a.yaml:1:1: how: `kind` is missing; add it: trim, mean"),
        ("how: 3", "a.yaml:1:6: how: expected one of trim, mean, found the number 3"),
        ("how: {kind: mean, trim: 1}", "a.yaml:1:19: how: unknown key `trim`; allowed here: kind"),
        (
            "items: [{kind: mean}, {kind: trim, trim: 0.5}]",
            "a.yaml:1:42: items.1.trim: expected a whole number, found the number 0.5",
        ),
        ("items: {a: 1}", "a.yaml:1:8: items: expected a list, found a block of keys"),
        ("workers: 0", "a.yaml:1:10: workers: expected `auto` or at least 1, found the number 0"),
        ("workers: {auto: 1}", "a.yaml:1:10: workers: expected `auto` or a whole number, found a block of keys"),
        ("workers: atuo", "a.yaml:1:10: workers: expected `auto` or a whole number, found the text `atuo`; did you mean `auto`?"),
        ("alpha: -1", "a.yaml:1:8: alpha: expected more than 0, found the number -1"),
        ("alpha: [1, -1]", "a.yaml:1:12: alpha.1: expected more than 0, found the number -1"),
        ("alpha: x", "a.yaml:1:8: alpha: expected a number or a list, found the text `x`"),
        ("size: 3 apples", "a.yaml:1:7: size: expected a number with a unit"),
        ("size: -1", "a.yaml:1:7: size: expected more than 0, found the number -1"),
        ("widths: {conv1: 17}", "a.yaml:1:17: widths.conv1: expected at most 16, found the number 17"),
        ("mode: fats", "a.yaml:1:7: mode: expected `fast` or `slow`, found the text `fats`; did you mean `fast`?"),
        ("label: y", "a.yaml:1:8: label: expected something else (text that begins with x), found the text `y`"),
        ("label: ''", "a.yaml:1:8: label: expected at least 1 characters, found the text ``"),
        ("label: 5", "a.yaml:1:8: label: expected text, found the number 5; put it in quotes"),
        ("label:", "a.yaml:1:1: label: expected text, found nothing; give it a value or remove the key"),
        ("flag: off", "a.yaml:1:7: flag: expected `true` or `false`, found the text `off`"),
        ("mod: fast", "a.yaml:1:1: unknown key `mod`; did you mean `mode`?"),
    ],
)
def test_each_error_is_one_sentence(text, sentence):
    (only,) = said(text)
    assert only.startswith(sentence)


def test_a_misspelt_key_is_not_missing_as_well():
    assert said("how: {kind: trim, trimm: 1}") == ["a.yaml:1:19: how: unknown key `trimm`; did you mean `trim`?"]


def test_what_was_already_found_wrong_is_not_said_twice():
    source = read_bytes(b"label: !x y", "a.yaml")
    with pytest.raises(ValidationError) as error:
        Block.model_validate(source.data)
    assert explain(error.value, Block, source) == []


def test_errors_come_in_the_order_of_the_file():
    assert [line.split(": ")[0] for line in said("flag: 1\nmode: 2\nsize: x\nlabel: 3\n")] == [
        "a.yaml:1:7",
        "a.yaml:2:7",
        "a.yaml:3:7",
        "a.yaml:4:8",
    ]


def test_a_near_name_is_suggested_and_else_all_are_listed():
    assert suggest("roundz", ["rounds", "seed"]) == "did you mean `rounds`?"
    assert suggest("zebra", ["rounds", "seed"], "allowed here") == "allowed here: rounds, seed"


def test_long_values_are_shortened():
    assert describe("x" * 1000) == f"the text `{'x' * 37}...`"
