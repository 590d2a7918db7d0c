"""fedapt.grid.flights: what lands in a step, for clients that are asked in turn and bring what the test says."""

import itertools
import json
from dataclasses import replace

import numpy as np

from fedapt.clock.asynchronous import Asynchronous
from fedapt.cost.ledger import LedgerRow
from fedapt.grid.flights import Brought, Flights
from fedapt.quant.parts import Part, Slice
from fedapt.record.plain import pack, unpack

LASTS_S = {0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0}


class InTurn:
    """Asks the first client that is not busy; all are always there."""

    def draw(self, number, clock_s, size, busy=(), turn=0):
        return [client for client in LASTS_S if client not in busy][:size], 0.0

    def wait_s(self, clock_s, size, busy=()):
        return 0.0


def brought(client, status="ok", samples=5):
    row = LedgerRow(round=0, client=client, attempt=1, group="g", profile="p", status=status, samples=samples)
    return Brought((row,), update={"w": np.ones(1, np.float32)} if status == "ok" else None)


def play(brings, wanted=1, steps=1, **clock):
    """Return the clients that landed in each step with their staleness, when it was taken, who was played, and the flights."""
    flights, played, now_s, seen = Flights(Asynchronous(**{"concurrency": 2} | clock), wanted, InTurn()), [], 0.0, []
    for number in range(steps):
        go = lambda clients: played.append(list(clients)) or {client: brings(client) for client in clients}  # noqa: E731
        landed, now_s = flights.step(number, now_s, LASTS_S.get, go)
        seen.append(([(one.client, one.staleness) for one in landed], now_s))
    return seen, played, flights


def test_an_update_of_no_samples_is_not_one_of_those_that_are_wanted():
    # 0 is back at 1 with nothing that counts; 1 is the first that does, at 2. Client 2 took 0's place.
    seen, played, _ = play(lambda client: brought(client, samples=0 if client == 0 else 5))
    assert (seen, played) == ([([(0, 0), (1, 0)], 2.0)], [[0, 1], [2]])


def test_when_everybody_fails_each_is_asked_once_and_the_step_ends():
    seen, played, _ = play(lambda client: brought(client, "failed", 0))
    assert [client for client, _ in seen[0][0]] == [0, 1, 2, 3] and sorted(itertools.chain(*played)) == [0, 1, 2, 3]
    assert seen[0][1] == max(1 + 3, 2 + 4)  # 2 follows 0 at 1, 3 follows 1 at 2


def test_staleness_counts_the_steps_between_asking_and_landing():
    # Asked at 0: 0 and 1. 0 lands in step 0. Step 1 asks 0 anew at 1, and 1 lands at 2 with 0 (tie: the lower number first).
    seen, _, _ = play(brought, steps=3)
    assert [landed for landed, _ in seen] == [[(0, 0)], [(0, 0)], [(1, 2)]] and [now_s for _, now_s in seen] == [1.0, 2.0, 2.0]


def test_what_is_in_the_air_survives_its_plain_state():
    _, _, flights = play(brought)
    again = Flights(Asynchronous(concurrency=2), 1, InTurn())
    again.restore(flights.state())
    assert again.give_up(3) == flights.give_up(3)
    late = again.give_up(3)[0]
    assert late == replace(brought(1).rows[0], round=3, status="late", staleness=3, reason="the run ended before it came back")


def test_what_part_an_update_is_of_survives_too():
    part = Part({"a": Slice(1, (0, 2)), "b": None}, frozenset({"a.bias"}))
    _, _, flights = play(lambda client: replace(brought(client), part=part if client else None))
    arrays = {}
    plain = unpack(json.loads(json.dumps(pack(flights.state(), arrays, "flights"))), arrays)
    again = Flights(Asynchronous(concurrency=2), 1, InTurn())
    again.restore(plain)
    landed, _ = again.step(1, 1.0, {1: 2.0}.get, lambda clients: {client: brought(client) for client in clients})
    assert [(one.client, one.brought.part) for one in landed] == [(1, part)]
