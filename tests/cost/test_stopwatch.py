import torch

from fedapt.cost import stopwatch
from fedapt.cost.stopwatch import fastest_seconds, threads


class Clock:
    """A clock that pieces of work move on: each takes the next of its times."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        for name in ("thread_time", "perf_counter"):
            monkeypatch.setattr(stopwatch.time, name, lambda: self.now)

    def piece(self, name, times):
        left = iter(times)

        def work():
            self.calls.append(name)
            self.now += next(left)

        return work


def test_the_fastest_block_counts_by_the_median_of_its_steps_without_the_first(monkeypatch):
    """Blocks of `a`: 9 untimed, then 5, 3, 4: median 4; then 1 untimed, 2, 9, 3: median 3."""
    clock = Clock(monkeypatch)
    pieces = [clock.piece("a", [9, 5, 3, 4, 1, 2, 9, 3]), clock.piece("b", [1] * 8)]
    assert fastest_seconds(pieces, rounds=2, block_s=3) == [3, 1]


def test_pieces_take_turns_and_progress_is_told(monkeypatch):
    clock, told = Clock(monkeypatch), []
    fastest_seconds([clock.piece(name, [1] * 8) for name in "ab"], rounds=2, block_s=0, progress=told.append)
    assert "".join(clock.calls) == "aaaabbbbaaaabbbb"
    assert told == [0.5, 1.0]


def test_a_block_of_short_steps_lasts_long_enough(monkeypatch):
    clock = Clock(monkeypatch)
    fastest_seconds([clock.piece("a", [1] * 100)], rounds=1, block_s=20)
    assert len(clock.calls) == 21


def test_the_number_of_threads_is_put_back():
    before = torch.get_num_threads()
    with threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
