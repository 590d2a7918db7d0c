"""fedapt.data.cache: saves time and never anything else."""

import os
import threading

import numpy as np
import pytest

from fedapt.data import cache
from fedapt.data.cache import alone, cached, digest, kept


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "fedapt"


def never():
    raise AssertionError("the array was made again")


def test_an_array_is_made_once(folder):
    made = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert cached("a", "key", lambda: made) is made
    found = cached("a", "key", never)
    assert found.dtype == np.int32 and found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_is_kept_can_be_looked_at_without_making_it(folder):
    assert kept("a", "key") is None
    cached("a", "key", lambda: np.array([1]))
    assert kept("a", "key").tolist() == [1]


def test_who_comes_while_an_array_is_made_waits_and_does_not_make_it_again(folder):
    begun, made = threading.Event(), []

    def slow():
        begun.set()
        other.join(0.2)
        made.append(other.is_alive())
        return np.array([1])

    def wait():
        begun.wait()
        with alone("a", "key"):
            made.append(cached("a", "key", never).tolist())

    other = threading.Thread(target=wait)
    other.start()
    with alone("a", "key"):
        cached("a", "key", slow)
    other.join()
    assert made == [True, [1]] and [path.name for path in folder.iterdir()] == ["a-key.npy"]


def test_entries_of_another_name_or_key_are_not_used(folder):
    cached("a", "1", lambda: np.array([1]))
    assert cached("a", "2", lambda: np.array([2])).tolist() == [2]
    assert cached("b", "1", lambda: np.array([3])).tolist() == [3]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:150] + bytes([b[150] ^ 1]) + b[151:]])
def test_a_damaged_entry_is_made_again_and_replaced(folder, damage):
    cached("a", "key", lambda: np.arange(100))
    entry = folder / "a-key.npy"
    entry.write_bytes(damage(entry.read_bytes()))
    assert cached("a", "key", lambda: np.arange(100)).tolist() == list(range(100))
    assert cached("a", "key", never).tolist() == list(range(100))


def test_a_folder_that_cannot_be_written_is_no_problem(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with alone("a", "key"):
        assert cached("a", "key", lambda: np.array([1])).tolist() == [1]


def test_an_entry_is_a_plain_npy_file_and_nothing_temporary_is_left(folder):
    cached("a", "key", lambda: np.array([1.5, 2.5]))
    assert [path.name for path in folder.iterdir()] == ["a-key.npy"]
    assert np.load(folder / "a-key.npy", allow_pickle=False).tolist() == [1.5, 2.5]


def test_nothing_temporary_is_left_where_the_disk_is_full(folder, monkeypatch):
    def full(source, target):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert cached("a", "key", lambda: np.array([1])).tolist() == [1]
    assert list(folder.iterdir()) == []


def test_the_entry_that_was_used_longest_ago_goes_first(folder, monkeypatch):
    monkeypatch.setattr(cache, "KEEP", 2)
    for age, key in ((300, "old"), (200, "older-but-used")):
        cached("a", key, lambda: np.array([0]))
        os.utime(folder / f"a-{key}.npy", (1e9 - age, 1e9 - age))
    os.utime(folder / "a-older-but-used.npy", (0, 0))
    cached("a", "older-but-used", never)
    cached("a", "new", lambda: np.array([0]))
    assert sorted(path.name for path in folder.iterdir()) == ["a-new.npy", "a-older-but-used.npy"]


def test_without_a_cache_home_the_cache_is_in_the_home(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(cache.folder()) == "/home/somebody/.cache/fedapt"


def test_a_digest_tells_apart_what_differs_in_borders_kind_or_dtype():
    parts = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (b"abc",),
        (np.array([1, 0]),),
        (np.array([[1, 0]]),),
        (np.array([1, 0], np.int32),),
    ]
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest("a", np.array([1])) == digest("a", np.array([1]))
