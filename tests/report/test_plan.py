"""`fedapt plan`: what it shows of the first round is what the run then does."""

import io
import json
import re

import pytest
from rich.console import Console
from ruamel.yaml import YAML

from fedapt.report.plan import DevicePlan, LayerPlan, Plans, pasted, plans, show, show_plans
from fedapt.report.terminal import Display
from fedapt.results import read_run
from fedapt.run import run
from fedapt.scenario import Scenario
from fedapt.stopping import Stopper
from tests.grid.conftest import scenario
from tests.test_cli import fedapt, small

PI = "raspberry-pi-4"


def of_boards(*groups, **method):
    """Return a `clients:` block of 12 clients at budgets of memory, all in each round."""
    return {
        "count": 12,
        "per_round": 12,
        "local": {"batch": 16},
        "method": {"precision": "budget", **method},
        "groups": [{"profile": PI, "name": memory, "budget": {"memory": memory}} for memory in groups],
    }


def shown(found: Plans, width: int = 80) -> str:
    file = io.StringIO()
    show(found, Console(file=file, width=width, highlight=False, markup=False, emoji=False))
    return file.getvalue()


@pytest.fixture(scope="module")
def wanted() -> Scenario:
    """A scenario in which some clients train all, some are lent a scheme and some are refused."""
    return scenario(rounds=1, clients=of_boards("1 GiB", "41 KiB", "20 KiB"))


@pytest.fixture(scope="module")
def found(wanted) -> Plans:
    """What is planned for it."""
    return plans(wanted)


def test_a_plan_is_what_the_ledger_of_the_run_says(wanted, found, tmp_path):
    with Stopper() as stopper, Display(io.StringIO()) as display:
        ledger = read_run(run(wanted, tmp_path, display, stopper)).ledger
    assert {plan.group for plan in found.plans} == {"1 GiB", "41 KiB"}
    for plan in found.plans:
        rows = ledger[ledger["group"] == plan.group]
        assert plan.clients == len(rows) and plan.memory_bytes == rows["memory_bytes"].max()
        assert sum(layer.trained_weights for layer in plan.layers) == rows["trained_weights"].iloc[0]
        assert [layer.bits for layer in plan.layers] == list(rows["layer_bits"].iloc[0])
        for column in ("samples", "energy_j", "time_s", "uplink_bytes", "downlink_bytes"):
            assert getattr(plan, column) == pytest.approx(rows[column].median(), rel=1e-12), column
    (refused,) = found.refused
    assert refused.group == "20 KiB" and refused.clients == (ledger["status"] == "refused").sum()


def test_the_block_that_is_printed_gives_a_whole_group_the_same_layers(found):
    lent = next(plan for plan in found.plans if plan.backward)
    block = YAML(typ="safe").load(pasted(lent))
    assert "channels" not in block["backward"] and lent.backward["channels"]
    (again,) = plans(scenario(rounds=1, clients=of_boards("41 KiB", **block))).plans
    assert again.layers == lent.layers and again.batch == lent.batch


def test_text_fits_eighty_columns_without_masks_or_control_characters(found):
    text = shown(found)
    assert max(map(len, text.splitlines())) <= 80 and "\x1b" not in text
    assert "cannot take part: needs" in text and "channels:" not in text and "kind: sparse_update" in text
    assert re.search(r"^layer +bits +weights +trains +others +forward +backward +kept$", text, re.MULTILINE)


def test_json_has_all_that_is_known(wanted, found, tmp_path):
    path = tmp_path / "plans.json"
    show_plans(wanted, path, io.StringIO())
    written = json.loads(path.read_text())
    lent = next(plan for plan in written["plans"] if plan["backward"])
    assert set(lent["backward"]["channels"]) <= set(lent["backward"]["weights"]) and written["refused"][0]["clients"] == 4
    assert lent["layers"][0] == vars(next(plan for plan in found.plans if plan.backward).layers[0])


def test_a_layer_is_written_with_units():
    layers = [
        LayerPlan("conv1", 4, 12_800, 6_400, 32, 0, 819_200, 0, 409_600, 2**12),
        LayerPlan("norm", 32, 0, 0, 9, 9, 1, 1, 1, 4),
    ]
    one = DevicePlan("a", PI, 2, 9.0, 4, 2**10, 2**20, 2e-3, 1.0, 0.5, 1e4, 2e4, "all", ["x"], None, layers)
    lines = shown(Plans("one", [one], [])).splitlines()
    assert lines[2] == "9 samples in batches of 4: 1.00 KiB of 1.00 MiB, 2.00 mJ of 1.00 J, 500 ms,"
    assert lines[5].split() == ["conv1", "4", "12,800", "50.0", "%", "0/32", "819", "k", "410", "k", "4.00", "KiB"]
    assert lines[6].split() == ["norm", "-", "-", "-", "9/9", "1", "2", "4", "B"]


def test_many_plans_of_a_group_are_counted_and_not_all_printed():
    layers = [LayerPlan("conv1", 4, 10, 10, 1, 1, 100, 0, 100, 40)]
    one = DevicePlan("a", PI, 2, 9.0, 4, 1, 2, 1.0, None, 1.0, 1.0, 1.0, "", [], None, layers)
    text = shown(Plans("many", [one] * 5, []))
    assert text.count("a: 2 clients") == 3 and "a: 4 clients more, with 2 other plans: --json has them" in text


def test_what_takes_long_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    said: list[str] = []
    changes = {"pretrain": {"epochs": 1}, "rounds": 1, "clients": of_boards("1 GiB")}
    plans(scenario(**changes), said.append)
    assert any(text.startswith("pretraining: 1.0 of 1 epoch, loss ") for text in said) and "searching schemes" in said[-1]


@pytest.mark.slow
def test_on_the_command_line_json_is_all_there_is_on_standard_output(tmp_path):
    done = fedapt("plan", "noniid", *small(), "--json", "-", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["name"] == "noniid" and not done.stderr
