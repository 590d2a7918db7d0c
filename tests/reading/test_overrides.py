"""Settings are laid over a file, and complaints about them name the setting."""

import pytest

from fedapt.reading.overrides import override
from fedapt.reading.yaml_source import fail, read_bytes


def over(text: str, *settings: str):
    return override(read_bytes(text.encode(), "a.yaml"), settings)


@pytest.mark.parametrize(
    ("text", "setting", "data"),
    [
        ("a: 1", "a=2", {"a": 2}),
        ("a: {b: 1, c: 2}", "a.b=x", {"a": {"b": "x", "c": 2}}),
        ("a: 1", "b.c.d=1e-3", {"a": 1, "b": {"c": {"d": 0.001}}}),
        ("a: 1", "a={kind: k, n: [1, 2]}", {"a": {"kind": "k", "n": [1, 2]}}),
        ("a: [{b: 1}, {b: 2}]", "a.1.b=3", {"a": [{"b": 1}, {"b": 3}]}),
        ("a: [1]", "a.1=2", {"a": [1, 2]}),
        ("b: 1", "a.0.c=2", {"b": 1, "a": [{"c": 2}]}),
        ("a: apt", "a.bits=4", {"a": {"kind": "apt", "bits": 4}}),
        ("a: 1", "a=b=c", {"a": "b=c"}),
        ("a: 1", "a=", {"a": None}),
    ],
)
def test_a_setting_replaces_or_adds_one_value(text, setting, data):
    source = over(text, setting)
    assert source.data == data
    assert source.problems == ()


def test_the_last_setting_of_a_key_wins():
    assert over("a: 1", "a=2", "a=3").data == {"a": 3}


def test_a_setting_is_the_place_of_what_it_sets_and_of_nothing_else():
    source = over("a:\n  b: {x: 1}\n  c: 2\n", "a.b={x: 5}")
    assert source.value_place(("a", "b", "x")).text == "--set a.b={x: 5}"
    assert source.key_place(("a", "b")).text == "--set a.b={x: 5}"
    assert source.value_place(("a", "c")).text == "a.yaml:3:6"


def test_a_block_that_a_setting_makes_is_placed_at_the_setting():
    source = over("a: 1\n", "b.c.d=1", "b.e=2")
    assert source.value_place(("b", "c")).text == "--set b.c.d=1"
    assert source.value_place(("b", "x")).text == "--set b.c.d=1"
    assert source.value_place(("x",)).text == "a.yaml:1:1"


@pytest.mark.parametrize(
    ("setting", "fragment"),
    [
        ("a", "expected `key.path=value`"),
        ("=1", "expected `key.path=value`"),
        ("a..b=1", "expected `key.path=value`"),
        ("a.3=1", "a.3: the list has 2 elements, so `3` is not one of them"),
        ("a.x=1", "a.x: `x` is looked for in a list"),
        ("b.0=1", "b.0: `0` is a place in a list"),
        ("b=[1", "b: expected `,` or `]`"),
        ("b=!!python/name:os.system", "b: tag `!!python/name:os.system` is unknown"),
        ("b={c: 1, c: 2}", "b: key `c` stands here a second time"),
        ("a.99999999999=1", "a.99999999999: `99999999999` is looked for in a list"),
    ],
)
def test_a_setting_that_cannot_be_applied_is_one_sentence_that_begins_with_it(setting, fragment):
    said = str(fail(over("a: [1, 2]\nb: {c: 1}\n", setting).problems))
    assert said.startswith(f"--set {setting}: {fragment}")
    assert "\n" not in said


def test_the_source_is_left_as_it_was():
    source = read_bytes(b"a: {b: [1]}", "a.yaml")
    override(source, ["a.b.0=2", "a.c=3"])
    assert source.data == {"a": {"b": [1]}}
