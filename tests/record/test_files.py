import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedapt.errors import DamagedData
from fedapt.record.files import append, whole_file, write_whole


@contextmanager
def size_limit(size: int) -> Iterator[None]:
    """No file may grow past `size` bytes: what a full disk does, without root."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_keeps_the_old_file_and_says_how_much_was_needed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_whole(path, b"old")
    with (
        size_limit(10_000),
        pytest.raises(DamagedData, match=r"model could not be written: the disk is full .* 2\.0 MB were needed"),
    ):
        write_whole(path, bytes(2_000_000))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model"]


def test_a_full_disk_is_a_sentence_when_a_line_is_appended(tmp_path: Path) -> None:
    (tmp_path / "rounds.csv").symlink_to("/dev/full")
    with pytest.raises(DamagedData, match=r"rounds\.csv could not be written: the disk is full .* Free some space"):
        append(tmp_path / "rounds.csv", "1,2\n")


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.EROFS, "does not allow it"),
        (errno.EACCES, "Make the folder writable"),
        (errno.ENOENT, "has vanished"),
        (errno.EIO, "Check the disk"),
    ],
)
def test_each_refusal_of_the_system_has_its_advice(tmp_path: Path, monkeypatch, number: int, sentence: str) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DamagedData, match=sentence):
        write_whole(tmp_path / "summary.json", b"{}")
    assert os.listdir(tmp_path) == []


def test_a_block_that_raises_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "ledger.parquet") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_vanished_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedData, match=r"gone has vanished"):
        write_whole(tmp_path / "gone" / "file", b"")
