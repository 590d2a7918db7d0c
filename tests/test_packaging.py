"""The mapping in pyproject.toml, the links in fedapt/ and what a wheel holds say the same."""

import importlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fedapt

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAPPED = {"clients", "scenarios", "strategies"}
DATA = {
    "fedapt/py.typed",
    "fedapt/report/page.css",
    "fedapt/report/page.js",
    "fedapt/scenarios/schema.json",
    "fedapt/scenarios/bench.schema.json",
}


def source_modules() -> set[str]:
    """Return what a wheel must hold: every Python file, each mapped folder under its name in the package."""
    own = {path.relative_to(ROOT) for path in (ROOT / "fedapt").rglob("*.py") if not MAPPED & set(path.relative_to(ROOT).parts)}
    mapped = {"fedapt" / path.relative_to(ROOT) for folder in MAPPED for path in (ROOT / folder).rglob("*.py")}
    return {path.as_posix() for path in own | mapped}


def source_data() -> set[str]:
    boards = {f"fedapt/clients/profiles/{path.name}" for path in (ROOT / "clients/profiles").glob("*.yaml")}
    experiments = {f"fedapt/scenarios/{path.name}" for path in (ROOT / "scenarios").glob("*.yaml")}
    return boards | experiments | DATA


def build(hook: str, source: Path, target: Path) -> Path:
    """Run one hook of setuptools' build backend, offline, in a process of its own; return what it built."""
    target.mkdir()
    code = f"import sys; from setuptools import build_meta; print(build_meta.{hook}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, target], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources without the links, as a checkout on a system without links has it."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("fedapt", *MAPPED):
        links = shutil.ignore_patterns("__pycache__", *(MAPPED if folder == "fedapt" else ()))
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=links)
    for file in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy / file)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a checkout with links."""
    linked = tmp_path_factory.mktemp("linked") / "fedapt"
    shutil.copytree(checkout, linked)
    for folder in MAPPED:
        (linked / "fedapt" / folder).symlink_to(Path("..") / folder)
    return build("build_wheel", linked, linked / "out")


def content(wheel: Path) -> list[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return sorted(name for name in names if not name.startswith(f"fedapt-{fedapt.__version__}.dist-info/"))


def test_every_folder_with_modules_is_named_as_a_package() -> None:
    folders = {str(Path(name).parent).replace("/", ".") for name in source_modules()}
    assert folders == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_package_folder_has_an_init_file() -> None:
    modules = source_modules()
    assert {name for name in modules if f"{Path(name).parent.as_posix()}/__init__.py" not in modules} == set()


def test_each_mapped_folder_has_a_relative_link_and_no_other_folder_has_one() -> None:
    mapping = PROJECT["tool"]["setuptools"]["package-dir"]
    links = {path.name: os.readlink(path) for path in (ROOT / "fedapt").iterdir() if path.is_symlink()}
    assert links == {folder: f"../{folder}" for folder in MAPPED}
    assert mapping == {f"fedapt.{folder}": folder for folder in MAPPED}


@pytest.mark.parametrize("folder", sorted(MAPPED))
def test_a_root_folder_refuses_to_be_imported_by_its_own_name(folder: str) -> None:
    with pytest.raises(ImportError, match=rf"write `import fedapt\.{folder}`"):
        importlib.import_module(folder)


def test_a_wheel_holds_every_module_and_data_file_once_and_nothing_else(wheel: Path) -> None:
    assert content(wheel) == sorted(source_modules() | source_data())


def test_a_checkout_without_links_builds_the_same_wheel(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(checkout, plain)
    assert content(build("build_wheel", plain, tmp_path / "out")) == content(wheel)


def test_an_sdist_builds_the_same_wheel(wheel: Path, checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(checkout, tmp_path / "source")
    sdist = build("build_sdist", tmp_path / "source", tmp_path / "sdist")
    subprocess.run([sys.executable, "-m", "tarfile", "--extract", sdist, tmp_path], check=True)
    unpacked = tmp_path / f"fedapt-{fedapt.__version__}"
    assert content(build("build_wheel", unpacked, tmp_path / "out")) == content(wheel)


@pytest.mark.parametrize("where", ["elsewhere", "in the repository"])
def test_an_installed_wheel_is_imported_whole_from_any_folder(where: str, wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    folder, home = (tmp_path, site) if where == "elsewhere" else (ROOT, ROOT)
    code = (
        "import fedapt.scenarios, importlib.util as u; print(fedapt.scenarios.__file__, u.find_spec('fedapt.strategies').origin)"
    )
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(home / "fedapt" / name / "__init__.py") for name in ("scenarios", "strategies")]


def test_importing_fedapt_loads_nothing_heavy() -> None:
    code = "import sys, fedapt; print(*{'torch', 'flwr', 'ray', 'pyarrow', 'numpy', 'pydantic', 'typer'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "\n"


def declared() -> dict[str, Requirement]:
    """Return every dependency that pyproject.toml names, by its canonical name."""
    project = PROJECT["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines if not line.startswith("fedapt[")}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(name): pin for name, pin in (line.split("==") for line in lines if not line.startswith("#"))}


def test_every_dependency_is_pinned_to_a_version_inside_its_declared_range() -> None:
    pins = pinned()
    assert set(declared()) <= set(pins)
    assert [name for name, needed in declared().items() if not needed.specifier.contains(pins[name])] == []


def test_a_board_installs_none_of_the_simulators_dependencies() -> None:
    core = {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    extras = {extra for line in PROJECT["project"]["dependencies"] for extra in Requirement(line).extras}
    assert core.isdisjoint({"ray", "pyarrow", "flwr-datasets", "plotly", "scikit-learn", "pandas", "pillow"}) and extras == set()


def test_the_changelog_begins_with_the_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in (fedapt.__version__, "Unreleased")
