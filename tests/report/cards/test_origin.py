from dataclasses import replace

import pytest

from fedapt.report.cards.origin import flat, origin_cards
from fedapt.results import Run, read_run
from fedapt.scenario import dump_scenario, load_scenario
from tests.report.example import Example


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(Example(rounds=1).write(tmp_path_factory.mktemp("runs")))


def test_a_scenario_is_flattened_to_keys_and_values() -> None:
    nested = {"a": {"b": [1, 2.5], "c": None}, "groups": [{"share": 0.5}, {"share": True}], "empty": {}}
    assert dict(flat(nested)) == {
        "a.b": "[1, 2.5]",
        "a.c": "null",
        "groups[0].share": "0.5",
        "groups[1].share": "true",
        "empty": "{}",
    }


def test_what_was_set_is_shown_and_defaults_are_folded_away(run: Run) -> None:
    scenario = dump_scenario(load_scenario("noniid", ["rounds=7", "engine.kind=inline", "clients.local.lr=0.25"]))
    card = origin_cards(replace(run, scenario=scenario))[0]
    said, folded = card.split("<details>")[:2]
    for key, value in [
        ("rounds", 7),
        ("clients.local.lr", 0.25),
        ("engine.kind", "inline"),
        ("strategy.kind", "fedavg"),
        ("seed", 0),
    ]:
        assert f"<td class='name'>{key}</td><td class='name'>{value}</td>" in said
    assert "clients.groups[2].budget.memory</td><td class='name'>24 MiB" in said
    assert "clients.local.batch" not in said and "clients.local.batch" in folded
    assert "energy_table" not in said and "energy_table" in folded


def test_a_scenario_that_this_installation_does_not_know_is_shown_whole(run: Run) -> None:
    card = origin_cards(replace(run, scenario="rounds: 3\nstrategy: {kind: 'my_module:Mine', beta: 0.5}\n"))[0]
    assert "<td class='name'>strategy.beta</td><td class='name'>0.5</td>" in card
    assert "at their defaults" not in card
