"""The pages in a real browser: what is drawn, what the buttons do, and that nothing is fetched or overflows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedapt.report.comparison import write_comparison
from fedapt.report.html import write_report
from fedapt.report.page import SHARED, share_script
from tests.report import arms
from tests.report.browser import LAPTOP, PHONE, opened, overflow, started, trace
from tests.report.example import Example

pytestmark = pytest.mark.slow
HOSTILE = """</script><script>document.title = "owned"</script><img src=x onerror="document.title = 'owned'">"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(Example(rounds=8).write(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    made = arms.example(folder, {f"arm {number}": (0.01 * number, 1 + number) for number in range(12)})
    return write_comparison(made, folder / "report.html", "fedapt bench bench.yaml")


def test_a_button_switches_the_axis_and_the_plot_has_the_new_values(browser: Any, report: Path) -> None:
    run = Example(rounds=8)
    with opened(browser, report) as tab:
        assert trace(tab, "accuracy")["x"] == list(range(1, 9))
        tab.get_by_role("button", name="by energy").first.click()
        spent = trace(tab, "accuracy")["x"]
        assert spent[0] == pytest.approx(run.record(0).energy_j, rel=1e-5)
        assert tab.locator("#plot-accuracy .xtitle").text_content() == "energy of all clients, J"
        assert tab.get_by_role("button", name="by energy").first.get_attribute("aria-pressed") == "true"


def test_the_map_of_bits_can_be_seen_for_one_group(browser: Any, report: Path) -> None:
    with opened(browser, report) as tab:
        first = "document.getElementById('plot-layers')._fullData[0].z[0]"
        before = tab.evaluate(first)
        tab.get_by_role("button", name="stm32h7").click()
        # These boards hold two bits less than the others, and are part of the mean.
        assert all(own is None or own < mean for own, mean in zip(tab.evaluate(first), before, strict=True))


def test_hovering_over_a_client_tells_which_it_is(browser: Any, report: Path) -> None:
    with opened(browser, report) as tab:
        tab.evaluate("Plotly.Fx.hover('plot-cost', [{curveNumber: 0, pointNumber: 0}])")
        assert tab.locator("#plot-cost .hovertext").text_content().startswith("client 1 of raspberry-pi-4")


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
@pytest.mark.parametrize("page", ["report", "comparison"])
def test_nothing_is_wider_than_the_window(browser: Any, page: str, size: tuple[int, int], request: Any) -> None:
    with opened(browser, request.getfixturevalue(page), size) as tab:
        assert overflow(tab) <= 0


def test_an_arm_is_hidden_in_all_plots_at_once_and_bands_come_with_few_arms(browser: Any, comparison: Path) -> None:
    with opened(browser, comparison) as tab:
        assert (trace(tab, "accuracy", 0)["visible"], trace(tab, "accuracy", 1)["visible"]) == (False, True)
        tab.get_by_role("button", name="hide all").click()
        tab.get_by_role("button", name="arm 3", exact=True).click()
        shown = [trace(tab, "accuracy", number)["visible"] for number in range(24)]
        assert [number for number, visible in enumerate(shown) if visible] == [6, 7]
        assert [trace(tab, "energy-front", number)["visible"] for number in (1, 4)] == [False, True]


def test_a_view_keeps_hidden_arms_hidden(browser: Any, comparison: Path) -> None:
    with opened(browser, comparison) as tab:
        tab.get_by_role("button", name="arm 0", exact=True).click()
        tab.get_by_role("button", name="by bytes").first.click()
        assert trace(tab, "accuracy", 1)["visible"] is False


def test_hostile_text_runs_nothing(browser: Any, tmp_path: Path) -> None:
    path = write_report(Example(rounds=4, odd=HOSTILE).write(tmp_path))
    made = arms.example(tmp_path, {HOSTILE: (0, 1), "<b>other</b>": (0.1, 2)}, missing={HOSTILE: (HOSTILE,)})
    for page in (path, write_comparison(made, tmp_path / "report.html", HOSTILE)):
        with opened(browser, page) as tab:
            assert "owned" not in tab.title()
            assert tab.locator("img").count() == 0


def test_a_run_in_a_bench_uses_its_script_and_says_so_when_it_is_gone(browser: Any, tmp_path: Path) -> None:
    script = share_script(tmp_path)
    page = write_report(Example(rounds=2).write(tmp_path / "cell"))
    assert page.stat().st_size < 300_000
    with opened(browser, page, allowed=(script,)) as tab:
        assert tab.locator(".no-plots").is_hidden()
    script.unlink()
    tab = browser.new_page()
    tab.goto(page.as_uri())
    assert f"because ../../{SHARED}, which this page shares with others, is not there" in tab.locator(".no-plots").inner_text()
