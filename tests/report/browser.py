"""A headless Chromium that opens a page from the disk, and what happened there that should not have."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
LAPTOP, PHONE = (1280, 800), (390, 844)


def found() -> str:
    """Return the path of this system's browser, or skip the test: none is downloaded."""
    path = next((path for name in NAMES if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser is installed here: none of {', '.join(NAMES)} is on PATH")
    return path


@contextmanager
def started() -> Iterator[Any]:
    """Start the browser."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'fedapt[dev]'")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found(), args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, page: Path, size: tuple[int, int] = LAPTOP, allowed: tuple[Path, ...] = ()) -> Iterator[Any]:
    """Open a page and wait for its plots; at the end, its console must be empty, and nothing loaded but what is allowed."""
    tab = browser.new_page(viewport={"width": size[0], "height": size[1]})
    said: list[str] = []
    loaded: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: loaded.append(request.url))
    tab.goto(page.resolve().as_uri())
    tab.wait_for_function("[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))")
    yield tab
    assert said == []
    assert loaded == [path.resolve().as_uri() for path in (page, *allowed)]
    tab.close()


def trace(tab: Any, plot: str, number: int = 0) -> dict[str, Any]:
    """Return what Plotly has really drawn of a trace: its points as they stand, and whether it is seen."""
    script = """([plot, number]) => {
        const full = document.getElementById("plot-" + plot)._fullData[number];
        return {x: [...(full.x || [])], y: [...(full.y || [])], visible: full.visible};
    }"""
    return dict(tab.evaluate(script, [plot, number]))


def overflow(tab: Any) -> int:
    """Return by how many pixels the page is wider than the window."""
    return int(tab.evaluate("document.documentElement.scrollWidth - window.innerWidth"))
