import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from fedapt.errors import DamagedData
from fedapt.report.html import write_report
from fedapt.report.page import share_script
from tests.report.example import Example

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert(2)">"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(Example().write(tmp_path_factory.mktemp("runs"))).read_text()


def without_plotly(page: str) -> str:
    assert page.count(get_plotlyjs()) == 1
    return page.replace(get_plotlyjs(), "")


def test_the_page_is_one_file_that_asks_for_nothing(page: str) -> None:
    own = without_plotly(page)
    assert not re.search(r"https?:|//cdn|<link|<iframe| src=| href=", own)
    assert "default-src 'none'; script-src 'nonce-" in own


def test_every_plot_of_the_run_is_there(page: str) -> None:
    ids = re.findall(r"id='plot-([\w-]+)'", page)
    assert ids == [
        "accuracy", "loss", "bits", "layers", "cost", "share", "spread", "energy", "time", "traffic", "tables", "dropouts",
    ]  # fmt: skip


def test_key_figures_groups_causes_and_origins_are_text_on_the_page(page: str) -> None:
    text = re.sub(r"<[^>]+>", " ", without_plotly(page))
    assert re.search(r"global accuracy +92\.0 % +best 92\.0 % after 20 rounds", text)
    assert re.search(r"stm32h7 +19 +29 of 38 +84\.0 % +6\.47 +15\.2 J +17\.4 min", text)
    assert re.search(r"refused +9 +2\.2 % +188, 192, 196 +needs 1\.31 MiB at 2 bits", text)
    assert re.search(r"energy +modelled +391 +computed from", text)
    assert "no device was measured" in text
    assert "rounds: 20" in text
    assert "stopped after" not in text


def test_the_command_that_repeats_the_run_is_quoted(tmp_path: Path) -> None:
    page = write_report(Example(rounds=1).write(tmp_path / "my runs")).read_text()
    assert re.search(r"fedapt run &#x27;.*/my runs/noniid-[-\d]+/scenario.yaml&#x27;", page)


def test_text_of_a_scenario_or_a_client_is_never_markup(tmp_path: Path) -> None:
    page = without_plotly(write_report(Example(rounds=5, odd=HOSTILE).write(tmp_path)).read_text())
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "<img" not in page
    assert page.count("</script>") == page.count("<script") == 2 + len(re.findall("id='plot-", page))


def test_a_killed_run_has_a_report_of_its_rounds(tmp_path: Path) -> None:
    page = write_report(Example(rounds=4).write(tmp_path, finish=False)).read_text()
    assert "plot-energy" in page
    assert "plot-spread" not in page


def test_what_clients_chose_is_on_the_page_with_how_often(tmp_path: Path) -> None:
    run = Example(rounds=4, count=200, cohort=20)
    page = without_plotly(write_report(run.write(tmp_path)).read_text())
    rows = [row for number in range(4) for row in run.rows(number) if row.status == "ok" and row.group == "jetson-nano"]
    batches = sum(row.choice.endswith("batches of 4") for row in rows)
    assert f"jetson-nano</td><td class='name'>budget asks for 6 bits; batches of 4</td><td class='name'>{batches}</td>" in page
    assert " J by both operands" in page


def test_a_stopped_run_says_so(tmp_path: Path) -> None:
    path = Example(rounds=4).write(tmp_path)
    (path / "manifest.json").unlink()
    scenario = path / "scenario.yaml"
    scenario.write_text(scenario.read_text().replace("rounds: 4", "rounds: 30"))
    assert "This run stopped after 4 of 30 rounds." in write_report(path).read_text()


def test_a_run_without_a_round_still_has_a_report(tmp_path: Path) -> None:
    page = write_report(Example(rounds=0).write(tmp_path)).read_text()
    assert "no round was completed" in page


@pytest.mark.parametrize("content", ["rounds: [", "version: 1\n", "rounds: many\n", "- 3\n"])
def test_a_scenario_that_is_none_is_one_sentence(tmp_path: Path, content: str) -> None:
    path = Example(rounds=1).write(tmp_path)
    (path / "manifest.json").unlink()
    (path / "scenario.yaml").write_text(content)
    with pytest.raises(DamagedData, match=r"scenario\.yaml is not the scenario of a run"):
        write_report(path)


def test_a_run_inside_of_a_bench_uses_the_script_of_its_folder(tmp_path: Path) -> None:
    share_script(tmp_path)
    page = write_report(Example(rounds=2).write(tmp_path / "cells")).read_text()
    assert 'src="../../plotly.min.js"></script>' in page
    assert len(page) < 300_000
