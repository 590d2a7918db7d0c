"""Imports of what only the simulator needs: a sentence with advice instead of a traceback where a package is missing."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from fedapt.errors import SetupError


def need(module: str, package: str, purpose: str) -> Any:
    """Import a module of an optional package; raises SetupError with the way to install it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SetupError(_advice(package, purpose, str(error.name))) from error


def version(package: str, purpose: str) -> str:
    """Return the version of an optional package without importing it; raises SetupError with the way to install it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise SetupError(_advice(package, purpose, package)) from error


def _advice(package: str, purpose: str, missing: str) -> str:
    return (
        f"{purpose} needs the package {package}, but `{missing}` is not installed. "
        f"Install it with `pip install {package}`, or all that a simulation uses with `pip install 'fedapt[sim]'`."
    )
