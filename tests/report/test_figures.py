import math

import pytest

from fedapt.report.figures import byte_count, decimal, distinct, harmless, joules, memory, percent, ranges, seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 J"),
        (12.34, "12.3 J"),
        (0.00456, "4.56 mJ"),
        (3.2e-7, "320 nJ"),
        (999.4, "999 J"),
        (999.6, "1.00 kJ"),
        (9.996, "10.0 J"),
        (99.96, "100 J"),
        (5.5e6, "5.50 MJ"),
        (-1.5, "-1.50 J"),
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "-"),
    ],
)
def test_energies_have_three_digits_and_a_unit_that_fits(value: float | None, text: str) -> None:
    assert joules(value) == text


def test_links_count_in_thousands_and_memory_in_powers_of_two() -> None:
    assert (byte_count(512), byte_count(1_424_000), byte_count(3e9)) == ("512 B", "1.42 MB", "3.00 GB")
    assert (memory(512), memory(2**20), memory(24 * 2**20), memory(3 * 2**30)) == ("512 B", "1.00 MiB", "24.0 MiB", "3.00 GiB")


def test_durations_go_from_nanoseconds_to_hours() -> None:
    assert [seconds(value) for value in (2e-9, 0.35, 12.3, 99.94, 99.96, 125, 12_000, 4e6)] == [
        "2.00 ns", "350 ms", "12.3 s", "99.9 s", "1.67 min", "2.08 min", "3.33 h", "1111 h",
    ]  # fmt: skip


def test_shares_and_plain_numbers() -> None:
    assert (percent(0.8616), percent(1.0), percent(None)) == ("86.2 %", "100.0 %", "-")
    assert (decimal(6.25), decimal(0.4567, 3), decimal(None)) == ("6.2", "0.457", "-")


def test_client_numbers_are_joined_to_ranges() -> None:
    assert ranges([3, 5, 6, 7, 12]) == "3, 5-7, 12"
    assert ranges([1, 3, 5, 6, 9], limit=2) == "1, 3 and 3 more"
    assert ranges([]) == ""


def test_text_that_steers_a_terminal_or_its_direction_is_made_harmless() -> None:
    assert harmless("a\x1b[2Jb\r\nc\u202ed\x07é") == "a [2Jb  c d é"


def test_long_names_that_begin_alike_are_cut_where_they_differ():
    names = ["rounds 3, per_round 4, fp32, fedavg", "rounds 3, per_round 4, fixed, median", "short"]
    assert distinct(names, 20) == ["...fp32, fedavg", "...fixed, median", "short"]
    assert distinct(["same long name, twice"] * 2, 10) == ["same lo..."] * 2
