"""fedapt.selection: when clients are there, by hand and against a look at every second."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedapt.errors import ScenarioError
from fedapt.selection import AVAILABILITIES
from fedapt.selection.always import Always
from fedapt.selection.availability import next_available_s
from fedapt.selection.daily import Daily
from fedapt.selection.trace import Trace
from tests.grid.conftest import scenario

HOUR, DAY = 3600, 86_400
PHONES = [("phones", "phone")] * 8
HOURS = st.tuples(st.integers(0, 23), st.integers(1, 24)).filter(lambda hours: hours[0] != hours[1])
DAILIES = st.builds(
    Daily,
    hours=HOURS.map(lambda hours: tuple(map(float, hours))),
    spread_h=st.sampled_from([0.0, 4.0, 24.0]),
    outside=st.sampled_from([0.0, 0.1, 1.0]),
)
CLOCKS = st.floats(0, 3 * DAY) | st.integers(0, 72).map(lambda hour: float(hour * HOUR)) | st.floats(0, 1e12)
STRETCHES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(1, 12)).map(lambda s: (s[0], s[1], min(s[1] + s[2], 40))),
    min_size=1,
)


def calendar(availability, groups=PHONES, seed=0):
    return availability.calendar(seed, groups)


def trace(path, stretches, period_s=None):
    path.write_text("client,start_s,end_s\n" + "".join(f"{c},{s},{e}\n" for c, s, e in stretches))
    return Trace(file=str(path), period_s=period_s)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("trace") / "trace.csv"


@pytest.mark.parametrize("kind", AVAILABILITIES)
def test_an_availability_keeps_its_options(kind):
    some = AVAILABILITIES[kind].model_validate({"kind": kind} | ({"file": "a.csv"} if kind == "trace" else {}))
    assert some.kind == kind and AVAILABILITIES[kind].__doc__
    assert AVAILABILITIES[kind].model_validate(some.model_dump()) == some


def test_always_is_always():
    there = calendar(Always())
    assert there.available(3, 1e9) and there.next_change_s(3, 0.0) == math.inf
    assert next_available_s(there, range(8), 12.5, 8) == 12.5 and Always().enough(10) == 1


@given(availability=DAILIES, clock_s=CLOCKS, seed=st.integers(0, 9), client=st.integers(0, 7), part=st.floats(0, 1))
def test_nothing_changes_before_the_next_change(availability, clock_s, seed, client, part):
    there = calendar(availability, seed=seed)
    change_s = there.next_change_s(client, clock_s)
    assert clock_s < change_s <= clock_s + DAY
    between_s = min(clock_s + part * (change_s - clock_s), math.nextafter(change_s, 0.0))
    assert there.available(client, between_s) == there.available(client, clock_s)


@given(availability=DAILIES, clock_s=st.floats(0, 2 * DAY), seed=st.integers(0, 9), count=st.integers(1, 8))
def test_the_next_time_that_enough_are_there_is_the_first(availability, clock_s, seed, count):
    """Against a look at every half hour, the least step of these calendars when their shifts are whole hours."""
    there = calendar(availability.model_copy(update={"spread_h": 0.0}), seed=seed)
    moment_s = next_available_s(there, range(8), clock_s, count)
    looks = [clock_s, *(float(at) for at in range((int(clock_s) // 1800 + 1) * 1800, int(clock_s) + 3 * DAY, 1800))]
    enough = [at for at in looks if sum(there.available(client, at) for client in range(8)) >= count]
    assert moment_s == enough[0]


def test_hours_over_midnight_and_within_a_day_by_hand():
    night, day = calendar(Daily(spread_h=0.0)), calendar(Daily(hours=(9.0, 17.5), spread_h=0.0))
    assert [night.available(0, hour * HOUR) for hour in (0, 5.99, 6, 21.99, 22, 24, 30)] == [1, 1, 0, 0, 1, 1, 0]
    assert [day.available(0, hour * HOUR) for hour in (0, 8.99, 9, 17.49, 17.5, 33)] == [0, 0, 1, 1, 0, 1]
    assert night.next_change_s(0, 0.0) == 6 * HOUR and night.next_change_s(0, 6 * HOUR) == 22 * HOUR
    assert next_available_s(day, range(8), 20 * HOUR, 8) == 33 * HOUR


def test_clients_are_there_for_their_share_of_the_time():
    """8 of 24 hours, and a tenth of the other 16: 9.6 of 24. 400 clients by 30 days of hours, a draw each outside."""
    there = calendar(Daily(outside=0.1, spread_h=24.0), PHONES * 50)
    found = sum(there.available(client, hour * HOUR) for client in range(400) for hour in range(720))
    draws = 400 * 720 * 16 / 24
    assert abs(found - 400 * 720 * 9.6 / 24) < 4.5 * math.sqrt(draws * 0.1 * 0.9)


def test_clocks_are_spread_over_the_hours_that_they_may_differ_by():
    there = calendar(Daily(hours=(0.0, 12.0), spread_h=4.0), PHONES * 50)
    ends = [there.next_change_s(client, 3 * HOUR) / HOUR for client in range(400)]
    assert 10.0 <= min(ends) < 10.1 and 13.9 < max(ends) <= 14.0
    assert abs(sum(ends) / 400 - 12.0) < 4.5 * 4 / math.sqrt(12 * 400)


def test_groups_may_have_hours_of_their_own_by_name_or_profile():
    hours = Daily(hours=(0.0, 1.0), groups={"office": (9.0, 17.0), "phone": (22.0, 6.0)}, spread_h=0.0)
    there = calendar(hours, [("office", "phone"), ("phones", "phone"), ("pis", "raspberry-pi-4")])
    assert [[there.available(client, hour * HOUR) for client in range(3)] for hour in (0.5, 3, 10)] == [
        [0, 1, 1],
        [0, 1, 0],
        [1, 0, 0],
    ]


def test_a_round_waits_for_half_of_its_clients_unless_told_otherwise():
    assert [Daily().enough(size) for size in (1, 3, 10)] == [1, 2, 5]
    assert [Daily(wait_for=share).enough(10) for share in (0.0, 0.31, 1.0)] == [1, 4, 10]


@pytest.mark.parametrize("hours", [(6.0, 6.0), (0.0, 24.5), (-1.0, 5.0), (22.0, 0.0)])
def test_hours_that_are_none_are_refused(hours):
    with pytest.raises(ValidationError):
        Daily(hours=hours)
    with pytest.raises(ValidationError):
        Daily(groups={"phone": hours})


@given(stretches=STRETCHES, period_s=st.sampled_from([None, 40, 41, 100]), clock_s=st.integers(0, 250) | st.floats(0, 250))
def test_a_trace_is_what_its_lines_say_for_every_second(file, stretches, period_s, clock_s):
    there = calendar(trace(file, stretches, period_s))
    for client in range(5):

        def expected(at, client=client):
            within = at % period_s if period_s else at
            return any(c == client and s <= within < e for c, s, e in stretches)

        assert there.available(client, clock_s) == expected(clock_s)
        change_s = there.next_change_s(client, clock_s)
        assert change_s > clock_s
        seconds = range(math.floor(clock_s) + 1, int(min(change_s, 500)))
        assert all(expected(second) == expected(math.floor(clock_s)) for second in seconds)


@given(stretches=STRETCHES, period_s=st.sampled_from([None, 40, 57]), clock_s=st.integers(0, 130), count=st.integers(1, 3))
def test_the_next_time_in_a_trace_is_the_first_and_may_never_come(file, stretches, period_s, clock_s, count):
    there = calendar(trace(file, stretches, period_s))
    seconds = range(clock_s, clock_s + 200)
    enough = [second for second in seconds if sum(there.available(client, second) for client in range(5)) >= count]
    assert next_available_s(there, range(5), clock_s, count) == (enough[0] if enough else math.inf)


def test_stretches_within_others_are_no_matter_and_a_period_goes_on_with_its_first_line(file):
    there = calendar(trace(file, [(0, 5, 30), (0, 10, 20), (0, 30, 35)], period_s=100))
    assert there.available(0, 25) and there.next_change_s(0, 6) == 35 and there.next_change_s(0, 35) == 105


def test_other_columns_orders_and_empty_lines_are_no_matter(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfend_s,network,client,start_s\r\n20,wifi,1,10\r\n\r\n5,,0, 0 \r\n")
    there = calendar(Trace(file=str(path)))
    assert [there.available(client, at) for client, at in ((0, 0), (0, 5), (1, 9.9), (1, 10), (1, 20))] == [1, 0, 0, 1, 0]


BAD = [
    ("", r"a\.csv:1: the column `client` is missing; the first line is `client,start_s,end_s`"),
    ("client,start_s\n0,1\n", r"a\.csv:1: the column `end_s` is missing"),
    ("client,start_s,end_s\n", r"a\.csv: no client is ever there"),
    ("client,start_s,end_s\n0,0,5\n1,7\n", r"a\.csv:3: 2 values under 3 columns"),
    ("client,start_s,end_s\n0,0,5\n\n1,9,8\n", r"a\.csv:4: end_s 8 is not after start_s 9"),
    ("client,start_s,end_s\n0,5,5\n", r"a\.csv:2: end_s 5 is not after start_s 5"),
    ("client,start_s,end_s\nanna,0,5\n", r"a\.csv:2: client: expected a whole number from 0 on, found `anna`"),
    ("client,start_s,end_s\n-1,0,5\n", r"a\.csv:2: client: expected a whole number from 0 on, found `-1`"),
    ("client,start_s,end_s\n0,0.5,5\n", r"a\.csv:2: start_s: expected a whole number from 0 on, found `0\.5`"),
    ("client,start_s,end_s\n0,0," + "9" * 50 + "\n", r"a\.csv:2: end_s: .* found `9{37}\.\.\.`"),
    ("client,start_s,end_s\n0,0,101\n", r"a\.csv:2: end_s 101 is after the period of 100 s; raise period_s"),
    ('client,start_s,end_s\n0,0,"5\n', r"a\.csv: this is no CSV file in UTF-8"),
    (b"\xff\xfe\x00", r"a\.csv: this is no CSV file in UTF-8"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD)
def test_a_trace_that_is_wrong_is_one_sentence_with_its_line(tmp_path, content, sentence):
    path = tmp_path / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ScenarioError, match=sentence) as caught:
        calendar(Trace(file=str(path), period_s=100))
    assert "\n" not in str(caught.value)


def test_a_trace_that_is_not_there_is_a_sentence_too(tmp_path):
    with pytest.raises(ScenarioError, match=r"clients\.availability\.file: .*none\.csv: there is no such file; check the path"):
        calendar(Trace(file=str(tmp_path / "none.csv")))
    with pytest.raises(ScenarioError, match=r"it cannot be read: Is a directory"):
        calendar(Trace(file=str(tmp_path)))


def test_hours_for_a_group_that_is_not_there_are_refused_with_a_suggestion():
    groups = [{"profile": "phone", "name": "phones"}, {"profile": "raspberry-pi-4"}]
    clients = {"count": 12, "per_round": 6, "groups": groups}
    kept = scenario(
        clients=clients | {"availability": {"kind": "daily", "groups": {"phones": [9, 17], "raspberry-pi-4": [0, 24]}}}
    )
    assert kept.clients.availability.groups == {"phones": (9, 17), "raspberry-pi-4": (0, 24)}
    with pytest.raises(ValidationError, match=r"there is no group or profile `fones`; did you mean `phone"):
        scenario(clients=clients | {"availability": {"kind": "daily", "groups": {"fones": [9, 17]}}})
