"""Blocks are strict, and quantities are read and written with their units."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedapt.options import BYTES, JOULES, Bytes, Joules, Options, quantity


class Budget(Options):
    memory: Bytes | None = None
    energy: Joules | None = None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64 MiB", 67_108_864), ("64MB", 64_000_000), ("1.5 GiB", 1_610_612_736), (" 3 kB ", 3000), ("1e3 B", 1000), (512, 512)],
)
def test_sizes_are_read_in_bytes(text, expected):
    assert Budget(memory=text).memory == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("2 J", 2.0), ("250 mJ", 0.25), ("1 Wh", 3600.0), ("3 uJ", 3e-6), (".5 kJ", 500.0), (2, 2.0)]
)
def test_energies_are_read_in_joules(text, expected):
    assert Budget(energy=text).energy == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("text", ["64", "64 mib", "MiB", "64 J", "-1 MiB", "1,5 MiB", "", "64 MiB/s", True, None, [1], "١ Mi"])
def test_anything_without_a_known_unit_is_refused_and_the_units_are_named(text):
    with pytest.raises(ValueError, match=r"expected a number with a unit .*MiB.* for example `64 MiB`"):
        quantity(text, BYTES, "64 MiB")


@pytest.mark.parametrize("memory", [0, -5, "0 MiB", "0.2 B"])
def test_a_budget_of_nothing_is_refused(memory):
    with pytest.raises(ValidationError, match="greater than 0"):
        Budget(memory=memory)


def test_a_quantity_beyond_every_size_is_refused():
    for text in ("1e999 B", "1e308 GiB"):
        with pytest.raises(ValueError, match="of a usable size, for example `64 MiB`"):
            quantity(text, BYTES, "64 MiB")


def test_quantities_are_written_in_the_largest_unit_that_is_exact():
    written = [Budget(memory=size).model_dump()["memory"] for size in (67_108_864, 64_000_000, 1536, 1_000_001)]
    assert written == ["64 MiB", "64 MB", "1.5 KiB", "1000001 B"]
    assert [Budget(energy=joules).model_dump()["energy"] for joules in (2.0, 0.25, 1e-9)] == ["2 J", "250 mJ", "1e-09 J"]


@given(st.integers(1, 2**53), st.floats(1e-12, 1e12))
def test_a_written_quantity_is_read_as_the_same_number(memory, energy):
    budget = Budget(memory=memory, energy=energy)
    assert Budget(**budget.model_dump()) == budget


def test_every_unit_can_be_read():
    assert [quantity(f"1 {unit}", BYTES, "") for unit in BYTES] == list(BYTES.values())
    assert [quantity(f"1 {unit}", JOULES, "") for unit in JOULES] == list(JOULES.values())


def test_blocks_refuse_unknown_keys_and_other_types_and_changes():
    class Block(Options):
        count: int = 1

    for wrong in ({"cuont": 1}, {"count": "1"}, {"count": 1.0}, {"count": True}):
        with pytest.raises(ValidationError):
            Block(**wrong)
    with pytest.raises(ValidationError, match="frozen"):
        Block().count = 2
