"""Committed rounds: one folder a round, complete under its name or not there, with a manifest that every file is held against.

A folder is written under a temporary name, each file is synced, then comes the manifest with sizes and SHA-256, then the name.
Old rounds keep their ledger and lose their state.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedapt import __version__
from fedapt.errors import DamagedData
from fedapt.record.crash_points import CrashPoint, crash_point
from fedapt.record.files import explained, sync_folder

MANIFEST = "manifest.json"
LEDGER = ("ledger.parquet", "record.json")
STATE = ("state.json", "state.safetensors")


class Commits:
    """The committed rounds in the folder `path`; every method raises DamagedData if the disk or the folder fails it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, number: int) -> Path:
        """Return the folder of a round."""
        return self.path / f"{number:05}"

    def numbers(self) -> list[int]:
        """Return the rounds that have a folder, in order."""
        names = os.listdir(self.path) if self.path.is_dir() else []
        return sorted(int(name) for name in names if re.fullmatch(r"\d{5,}", name))

    def write(self, number: int, files: Mapping[str, bytes]) -> None:
        """Commit a round."""
        temporary = self.path / f".{number:05}.tmp"
        listed = manifest({name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()})
        with explained(self.folder(number), sum(map(len, files.values()))):
            try:
                temporary.mkdir()
                crash_point(CrashPoint.FOLDER_MADE)
                for name, data in files.items():
                    _write(temporary / name, data)
                    crash_point(CrashPoint.FILE_WRITTEN)
                crash_point(CrashPoint.FILES_WRITTEN)
                _write(temporary / MANIFEST, listed)
                sync_folder(temporary)
                crash_point(CrashPoint.MANIFEST_WRITTEN)
                os.rename(temporary, self.folder(number))
                sync_folder(self.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        crash_point(CrashPoint.COMMITTED)

    def read(self, number: int, names: Sequence[str]) -> dict[str, bytes]:
        """Return files of a round; raises DamagedData if one of them is not as it was written."""
        return dict(verified(self.folder(number), names))

    def newest(self) -> tuple[int, str]:
        """Return the newest round to go on from, and what is wrong after it if anything is; -1 if none was committed.

        All rounds up to it have their ledger, and it has its state. Raises DamagedData if there are rounds, but no such round.
        """
        numbers, newest, problem = self.numbers(), -1, ""
        for number in range(numbers[-1] + 1 if numbers else 0):
            try:
                for _ in verified(self.folder(number), LEDGER):
                    pass
            except DamagedData as error:
                problem = str(error)
                break
            newest = number
        while newest >= 0:
            try:
                self.read(newest, STATE)
                return newest, problem
            except DamagedData as error:
                problem, newest = problem or str(error), newest - 1
        if numbers:
            raise DamagedData(f"no committed round is whole from which the run could go on: {problem}")
        return -1, ""

    def prune(self, newest: int, keep: int) -> None:
        """Remove the states of all but the `keep` newest rounds."""
        for number in range(newest - keep, -1, -1):
            states = [path for name in STATE if (path := self.folder(number) / name).exists()]
            if not states:
                break
            for path in states:
                with explained(path):
                    path.unlink()
                crash_point(CrashPoint.HALF_PRUNED)
        crash_point(CrashPoint.PRUNED)

    def drop_after(self, number: int) -> None:
        """Remove the rounds after this one, and what writing has left behind."""
        with explained(self.path):
            for name in os.listdir(self.path):
                if name.endswith(".tmp") or (name.isdecimal() and int(name) > number):
                    shutil.rmtree(self.path / name)

    def remove(self) -> None:
        """Remove all rounds: they vanish at once under their name."""
        doomed = self.path.with_name(f".{self.path.name}.tmp")
        if self.path.exists():
            with explained(self.path):
                os.rename(self.path, doomed)
        crash_point(CrashPoint.ROUNDS_RENAMED)
        shutil.rmtree(doomed, ignore_errors=True)


def manifest(files: Mapping[str, tuple[int, str]]) -> bytes:
    """Return a manifest of files, given by name with size in bytes and SHA-256."""
    listed = {name: {"bytes": size, "sha256": digest} for name, (size, digest) in files.items()}
    return json.dumps({"fedapt": __version__, "files": listed}, indent=2).encode() + b"\n"


def digest_of(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def verified(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield files of a folder that its manifest vouches for; raises DamagedData naming the first one that it does not."""
    listed = _listed(folder / MANIFEST)
    for name in names:
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise DamagedData(f"{folder / name} cannot be read ({error.strerror})") from None
        if listed.get(name) != {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}:
            raise DamagedData(f"{folder / name} is not as it was written (its size or SHA-256 is not the manifest's)")
        yield name, data


def check(folder: Path) -> None:
    """Hold all files of a folder against its manifest; raises DamagedData naming the first one that differs."""
    for name, expected in _listed(folder / MANIFEST).items():
        try:
            size, digest = digest_of(folder / name)
        except OSError as error:
            raise DamagedData(f"{folder / name} cannot be read ({error.strerror}). Restore it from a copy.") from None
        if expected != {"bytes": size, "sha256": digest}:
            raise DamagedData(f"{folder / name} is not as it was written (its SHA-256 differs). Restore it from a copy.")


def _listed(path: Path) -> dict[str, dict[str, int | str]]:
    try:
        files = json.loads(path.read_bytes())["files"]
        if not isinstance(files, dict) or any(Path(name).name != name or not name.isprintable() for name in files):
            raise ValueError("it lists no files")
        return files
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise DamagedData(f"{path} cannot be read ({reason})") from None


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
