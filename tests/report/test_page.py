import re
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from fedapt.report.page import SHARED, page, share_script, shared_script


def test_a_page_stands_alone_and_only_its_own_scripts_have_the_nonce() -> None:
    text = page("<t>", "<p>body</p>")
    assert get_plotlyjs() in text
    nonces = re.findall(r"<script nonce=\"(\w{32})\">", text.replace(get_plotlyjs(), ""))
    assert len(set(nonces)) == 1 and len(nonces) == 2
    assert f"default-src 'none'; script-src 'nonce-{nonces[0]}';" in text
    assert "'unsafe-inline'; img" in text and "<title>&lt;t&gt;</title>" in text


def test_equal_pages_are_the_same_bytes_and_other_text_has_another_nonce() -> None:
    assert page("t", "one", "p.js") == page("t", "one", "p.js")
    nonces = {re.search(r"nonce-(\w+)", page("t", body, "p.js"))[1] for body in ("one", "two")}  # type: ignore[index]
    assert len(nonces) == 2


@pytest.mark.parametrize("place", ["run", "cell/run", "cells/cell/run"])
def test_a_folder_above_shares_its_script(tmp_path: Path, place: str) -> None:
    share_script(tmp_path)
    run = tmp_path / place
    run.mkdir(parents=True)
    assert shared_script(run) == f"{'../' * (place.count('/') + 1)}{SHARED}"
    assert (run / str(shared_script(run))).resolve() == tmp_path / SHARED


def test_another_version_of_the_script_is_not_used_and_replaced_when_it_is_shared_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert shared_script(tmp_path / "run") is None
    (tmp_path / SHARED).write_text("alert('older')")
    assert shared_script(tmp_path / "run") is None
    assert share_script(tmp_path).read_text() == get_plotlyjs()


def test_a_page_that_shares_is_small_and_can_say_that_the_script_is_gone() -> None:
    text = page("t", "<p>body</p>", "../plotly.min.js")
    assert len(text) < 20_000
    assert 'src="../plotly.min.js"' in text
    assert "The plots are missing because ../plotly.min.js" in text
