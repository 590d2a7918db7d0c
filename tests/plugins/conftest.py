"""A zoo of strategies, plugged in for one test at a time."""

import sys
from pathlib import Path

import pytest

from fedapt.plugins import load_plugins, loading

ZOO = Path(__file__).with_name("zoo.py")


@pytest.fixture(autouse=True)
def only_the_zoo(monkeypatch):
    """Forget after each test what it has plugged in, and where modules are looked for."""
    monkeypatch.setattr(loading, "_modules", {})
    monkeypatch.setattr(loading, "_given", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    load_plugins([str(ZOO)])
    yield
    for name in [name for name, module in sys.modules.items() if "plugged_in_test" in name]:
        del sys.modules[name]
