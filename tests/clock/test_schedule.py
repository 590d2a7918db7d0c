"""Asynchronous schedules, drawn by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st

from fedapt.clock.schedule import Flight, window

LASTS_S = {0: 3.0, 1: 1.0, 2: 10.0, 3: 2.0, 4: 1.5}


def in_turn(now_s, busy, calls):
    return next((client for client in LASTS_S if client not in busy), None)


def play(flying=(), now_s=0.0, version=0, wanted=2, concurrency=2, choose=in_turn, lasts_s=LASTS_S.get, **other):
    other = {"counts": lambda flight: True, "wait_s": lambda now_s, busy: math.inf} | other
    return window(flying, now_s, version, wanted=wanted, concurrency=concurrency, choose=choose, lasts_s=lasts_s, **other)


def test_whoever_is_done_is_replaced_at_once():
    # 0 and 1 start at 0; 1 is back at 1 and 2 takes its place; 0 is back at 3, the second update: the server steps.
    first = play()
    assert first.asked == (Flight(3.0, 0, 0), Flight(1.0, 1, 0), Flight(11.0, 2, 0))
    assert [flight.client for flight in first.arrived] == [1, 0]
    assert (first.flying, first.ends_s) == ((Flight(11.0, 2, 0),), 3.0)
    # 0 takes the free place at 3, with the new model, and is back at 6; 1 follows it and is back at 7; 2 works on the old one.
    second = play(first.flying, first.ends_s, version=1)
    assert second.asked == (Flight(6.0, 0, 1), Flight(7.0, 1, 1))
    assert (second.flying, second.ends_s) == ((Flight(11.0, 2, 0),), 7.0)


def test_what_does_not_count_frees_its_place_and_is_not_waited_for():
    seen = play(counts=lambda flight: flight.client != 1)
    assert [flight.client for flight in seen.arrived] == [1, 0, 3]  # 3 starts at 3, and is back at 5, long before 2


def test_a_client_that_cannot_take_part_is_asked_once():
    asked = []
    play(lasts_s=lambda client: asked.append(client) or (None if client == 0 else LASTS_S[client]))
    assert asked.count(0) == 1


def test_with_nobody_left_the_window_ends_short():
    seen = play(wanted=9, concurrency=3)
    assert (len(seen.arrived), seen.flying, seen.ends_s) == (5, (), 10.0)


def test_when_everybody_is_away_the_server_waits_for_the_first_to_come():
    there = lambda now_s, busy, calls: in_turn(now_s, busy, calls) if now_s >= 100 else None  # noqa: E731
    seen = play(choose=there, wait_s=lambda now_s, busy: 100 - now_s)
    assert (seen.asked[0], seen.ends_s) == (Flight(103.0, 0, 0), 103.0)


def test_who_comes_while_others_are_at_work_is_asked_at_once():
    # 0 alone is there at first, until 3; the others come at 1, and 1 takes the free place, long before 0 is back.
    here = lambda now_s, busy, calls: in_turn(now_s, busy, calls) if now_s >= 1 or 0 not in busy else None  # noqa: E731
    seen = play(choose=here, wait_s=lambda now_s, busy: max(1 - now_s, 0.0) if 0 in busy else 0.0)
    assert seen.asked[:2] == (Flight(3.0, 0, 0), Flight(2.0, 1, 0))


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 6))
def test_never_more_at_work_than_allowed_and_nobody_lost(durations, wanted, concurrency):
    choose = lambda now_s, busy, calls: next((c for c in range(len(durations)) if c not in busy), None)  # noqa: E731
    flying, now_s, asked, back = (), 0.0, 0, 0
    for version in range(5):
        seen = play(flying, now_s, version, wanted, concurrency, choose, lambda client: durations[client])
        assert seen.ends_s >= now_s and len(seen.flying) <= concurrency
        assert [flight.arrival_s for flight in seen.arrived] == sorted(flight.arrival_s for flight in seen.arrived)
        asked, back, flying, now_s = asked + len(seen.asked), back + len(seen.arrived), seen.flying, seen.ends_s
        assert asked == back + len(flying)
