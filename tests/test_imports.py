"""Imports point one way: a module knows its own level and those below."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fedapt"
LEVELS: tuple[set[str], ...] = (
    {"errors", "seeding", "options"},
    {"quant"},
    {"cost"},
    {"clients", "clock", "strategies", "data", "models", "scenarios"},
    {"grid", "admission"},
    set(),  # scenario, results and what they are made of: every module that no other level names
    {"benchmark", "report", "tracking", "run", "resuming", "narrator", "engines", "deploy", "cli", "__main__"},
)
PARTS = sorted(path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())


def level(part: str) -> int:
    return next((number for number, parts in enumerate(LEVELS) if part in parts), LEVELS.index(set()))


def parts_imported(path: Path) -> set[str]:
    """Return the parts of fedapt that a file imports, inside functions and for type checkers too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "fedapt":
            names |= {f"fedapt.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[1] for name in names if name.startswith("fedapt.")} - {"__version__"}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_imports_nothing_above_its_level(part: str) -> None:
    files = (PACKAGE / part).rglob("*.py") if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
    limit = 0 if part == "__init__" else level(part)
    upward = {(str(path), name) for path in files for name in parts_imported(path) if level(name) > limit}
    assert upward == set()


def test_the_levels_name_only_what_exists() -> None:
    assert set().union(*LEVELS) <= set(PARTS)


@pytest.mark.parametrize("module", ["fedapt.run", "fedapt.clients.app"])
def test_flowers_telemetry_is_off_whichever_module_comes_first(module: str) -> None:
    code = f"import {module}, flwr.supercore.telemetry as telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FLWR_")}
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, env=outside, capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr
