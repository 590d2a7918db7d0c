"""A cache of their own for all tests of data, and the shared data sets where they are there."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "fedapt"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(os.environ.get("FEDAPT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not there: {folder} is no folder; name one as FEDAPT_SHARED_DATA")
    return folder
