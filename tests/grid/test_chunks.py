"""Chunks hold all tasks once, the longest first, and as much work as their worker does in a while."""

from types import SimpleNamespace

from fedapt.grid.chunks import LARGEST_FIRST, MOST_S, SHARE, Chunks, Pace, work


def tasks(*steps):
    return [[SimpleNamespace(kind="train", client=client, planned={20: count})] for client, count in enumerate(steps)]


def taken(chunks):
    while chunks:
        yield chunks.take(2)


def test_all_tasks_are_taken_once_and_those_with_the_most_work_first():
    given = tasks(*range(1, 100))
    order = [group for chunk in taken(Chunks(given, Pace(None))) for group in chunk]
    assert order == given[::-1]


def test_a_given_size_is_kept():
    assert [len(chunk) for chunk in taken(Chunks(tasks(*[5] * 7), Pace(3)))] == [3, 3, 1]


def test_before_anything_is_known_chunks_are_small():
    sizes = [len(chunk) for chunk in taken(Chunks(tasks(*[5] * 1000), Pace(None)))]
    assert max(sizes) == LARGEST_FIRST


def test_chunks_follow_what_work_takes_and_get_smaller_towards_the_end():
    pace, given = Pace(None), tasks(*[4] * 1000)
    pace.learn(given[0], busy_s=0.001, lasted_s=0.001)
    sizes = [len(chunk) for chunk in taken(Chunks(given, pace))]
    assert sizes[0] == round(SHARE * 1000 / 2) <= round(MOST_S / 0.001)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] <= 0.02 / 0.001


def test_a_worker_takes_what_is_left_when_the_other_has_its_share():
    pace, given = Pace(None), tasks(*[4] * 40)
    pace.learn(given[0], busy_s=0.001, lasted_s=0.1)
    chunks = Chunks(given, pace)
    first = chunks.take(2)
    second = chunks.take(2, pace.left([task for (task,) in first], since_s=0.001))
    assert (len(first), len(second)) == (20, 20) and not chunks


def test_where_handing_out_is_dear_each_worker_gets_one_chunk():
    pace, given = Pace(None), tasks(*[4] * 100)
    pace.learn(given[0], busy_s=0.001, lasted_s=1.0)
    assert len(Chunks(given, pace).take(4)) == 25


def test_one_long_task_is_a_chunk_of_its_own():
    pace, given = Pace(None), tasks(*[1] * 50, 1000)
    pace.learn(given[0], busy_s=0.001, lasted_s=0.001)
    chunks = Chunks(given, pace)
    assert chunks.take(2) == [given[-1]]


def test_what_is_put_back_comes_first():
    given = tasks(1, 1, 1, 1)
    chunks = Chunks(given, Pace(2))
    first = chunks.take(2)
    chunks.put_back(first)
    assert chunks.take_one() == first[0] and chunks.take(2) == first[1:]


def test_evaluation_is_measured_in_samples():
    assert work(SimpleNamespace(kind="evaluate", held_out=12)) == 13
