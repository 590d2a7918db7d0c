"""YAML becomes plain data with places, whatever the bytes are, and nothing is executed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedapt.errors import ScenarioError
from fedapt.reading.yaml_source import MAX_BYTES, fail, read_bytes, read_file, read_text


def problem(content: bytes) -> str:
    source = read_bytes(content, "a.yaml")
    return str(fail(source.problems)) if source.problems else ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 100000.0), ("-.5", -0.5), ("7", 7), ("0x1f", 31), ("0o17", 15), ("60_000", 60000),
        ("off", "off"), ("yes", "yes"), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"), ("'1'", "1"), ("=", "="),
        ("true", True), ("False", False), ("~", None), ("null", None), ("", None), ("64 MiB", "64 MiB"), ("!!str 1", "1"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_yaml_1_2(text, value):
    data = read_text(f"key: {text}", "a.yaml").data["key"]
    assert data == value
    assert type(data) is type(value)


def test_every_key_and_value_has_its_line_and_column():
    source = read_bytes(b"# comment\na: 1\nb:\n  - {c: 2,   d: 3}\n", "a.yaml")
    assert source.data == {"a": 1, "b": [{"c": 2, "d": 3}]}
    assert source.key_place(("b",)).text == "a.yaml:3:1"
    assert source.value_place(("b", 0, "d")).text == "a.yaml:4:17"
    assert source.key_place(("b", 0, "d")).text == "a.yaml:4:14"
    assert source.key_place(("b", 0)).text == "a.yaml:4:5"


def test_what_was_not_written_is_placed_at_the_block_around_it():
    source = read_bytes(b"a: 1\nb:\n  c: 2\n", "a.yaml")
    assert source.value_place(("b", "x", 0, "y")).text == "a.yaml:3:3"


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BROKEN = {
    "empty": (b"", "a.yaml:1:1: the file is empty, expected a mapping"),
    "only a comment": (b"# nothing\n", "a.yaml:1:1: the file is empty"),
    "a list": (b"\n- 1\n", "a.yaml:2:1: the file holds something else, expected a mapping"),
    "plain text": (b"hello", "a.yaml:1:1: the file holds something else"),
    "a tab": (b"a:\n  b: 1\n\tc: 1\n", "a.yaml:3:1: a tab cannot indent; use spaces"),
    "not UTF-8": (b"a: 1\nb: \xff\n", "a.yaml:2:4: byte 0xff is not UTF-8"),
    "UTF-16": ("a: 1".encode("utf-16"), "a.yaml:1:1: byte 0xff is not UTF-8"),
    "a control character": (b"a: 1\nb: \x00\n", "a.yaml:2:4: character 0x00 cannot be in YAML"),
    "a key twice": (b"a: 1\nb: 2\na: 3\n", "a.yaml:3:1: key `a` stands here a second time, first on line 1"),
    "a nested key twice": (b"a: {b: 1, b: 2}\n", "a.yaml:1:11: a: key `b` stands here a second time"),
    "a python tag": (b"a: !!python/object:os.system x\n", "a.yaml:1:4: a: tag `!!python/object:os.system` is unknown"),
    "a tag on a block": (b"a: !mine {b: 1}\n", "a.yaml:1:4: a: tag `!mine` is unknown"),
    "a set": (b"a: !!set {b}\n", "a.yaml:1:4: a: tag `!!set` is unknown"),
    "a merge": (b"a: {<<: {b: 1}}\n", "a.yaml:1:5: a: merging with `<<` is not supported"),
    "a number as key": (b"1: 2\n", "a.yaml:1:1: a key must be text"),
    "a list as key": (b"? [1]\n: 2\n", "a.yaml:1:3: a key must be text"),
    "an open list": (b"a: [1\nb: 2\n", "a.yaml:2:2: expected `,` or `]` to go on with what was opened on line 1"),
    "an open block": (b"a: {b: 1\n", "a.yaml:2:1: expected `,` or `}` to go on with what was opened on line 1"),
    "an open quote": (b"a: 'x\nb: 2\n", "the quote opened on line 1 is never closed"),
    "two colons": (b"a: b: c\n", "a.yaml:1:5: a `:` where none can be"),
    "no colon": (b"a: 1\nb\nc: 2\n", "expected `key: value`"),
    "an unindented key": (b"- a\nb: 1\n", "a.yaml:2:1: the indentation does not match"),
    "a value with @": (b"a: @x\n", "a.yaml:1:4: a value cannot begin with `@`"),
    "an unknown alias": (b"a: *x\n", "a.yaml:1:4: alias `*x` is not defined"),
    "an unknown escape": (b'a: "\\q"\n', "a.yaml:1:6: not valid YAML"),
    "two documents": (b"a: 1\n---\nb: 2\n", "a.yaml:2:1: a second document begins here"),
    "another version": (b"%YAML 1.1\n---\na: off\n", "a.yaml:1:1: `%YAML 1.1` is not supported"),
    "an alias of itself": (b"a: &a [*a]\n", "unfolds to more than 30 levels"),
    "a bomb of aliases": (BOMB.encode(), "unfolds to more than 20000 values"),
    "deep nesting": (b"[" * 100_000, "a.yaml:1:1: more than 30 levels of nesting"),
    "10 MB": (b"# 10 MB\n" * 1_250_000, "a.yaml:1:1: the file is larger than 1 MiB"),
    "infinity": (b"a: .inf\n", "a.yaml:1:4: a: `.inf` is not a finite number"),
    "too large a number": (b"a: 1e999\n", "a.yaml:1:4: a: `1e999` is not a finite number"),
    "too long a number": (b"a: " + b"9" * 5000, "a.yaml:1:4: a: `9999"),
    "text as a number": (b"a: !!int x\n", "a.yaml:1:4: a: `x` is not a finite number"),
}


@pytest.mark.parametrize(("content", "fragment"), BROKEN.values(), ids=BROKEN.keys())
def test_what_cannot_be_read_is_one_sentence_with_its_place(content, fragment):
    said = problem(content)
    assert fragment in said
    assert "\n" not in said


def test_a_tag_does_nothing(tmp_path):
    canary = tmp_path / "canary"
    assert "is unknown" in problem(f"a: !!python/object/apply:os.system ['touch {canary}']".encode())
    assert not canary.exists()


def test_the_rest_is_still_read_after_what_is_wrong():
    source = read_bytes(b"a: .inf\na: 2\nb: !x 1\nc: 3\n", "a.yaml")
    assert [problem.place.line for problem in source.problems] == [1, 2, 3]
    assert source.data["c"] == 3


def test_a_byte_order_mark_and_windows_line_ends_are_read():
    assert read_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "a.yaml").data == {"a": 1, "b": 2}


def test_aliases_are_read():
    assert read_bytes(b"a: &x {b: 1}\nc: *x\n", "a.yaml").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_problems_cannot_send_control_characters_to_a_terminal():
    assert problem(b'"\\e[2J": 1\n"\\e[2J": 2\n').isprintable()


def test_a_long_story_is_cut_short():
    lines = problem(b"a: 1\n" * 100 + b"b: !" + b"x" * 5000).splitlines()
    assert (len(lines), lines[-1]) == (51, "... and 50 more problems")
    assert len(problem(b"b: !" + b"x" * 5000)) < 600


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ScenarioError, match="there is no such file"):
        read_file(tmp_path / "none.yaml")
    with pytest.raises(ScenarioError, match="is a folder"):
        read_file(tmp_path)


def test_a_file_is_not_read_beyond_the_limit(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * MAX_BYTES)
    assert "is empty" in read_file(path).problems[0].text
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "larger than 1 MiB" in read_file(path).problems[0].text


@given(st.binary(max_size=60) | st.text("ab:-[]{}&*!%@,'\"|>?#\t\n 01.e~<=_", max_size=60).map(str.encode))
def test_arbitrary_bytes_become_a_mapping_or_problems(content):
    source = read_bytes(content, "a.yaml")
    assert source.problems or isinstance(source.data, dict)
