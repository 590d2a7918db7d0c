"""A scenario is read strictly, complains completely, and is written so that it reads back equal."""

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from fedapt.errors import ScenarioError
from fedapt.scenario import Scenario, dump_scenario, load_scenario, packaged, scenario_schema

SCENARIOS = Path(__file__).parents[1] / "scenarios"
TINY = """\
version: 1
name: tiny
rounds: 2
data: {source: strokes, partition: {kind: dirichlet, alpha: 0.3}}
model: cnn
clients:
  count: 10
  per_round: 5
  groups:
    - {profile: raspberry-pi-4, share: 0.5}
    - profile: stm32h7
      share: 0.5
      budget: {memory: 1 MiB, energy: 2 J}
  method: {precision: {kind: fixed, bits: 4}}
strategy: {kind: fedavg}
engine: {kind: inline, workers: 1}
"""


@pytest.fixture
def load(tmp_path):
    def load(text: str, *settings: str) -> Scenario:
        path = tmp_path / "tiny.yaml"
        path.write_text(text)
        return load_scenario(str(path), settings)

    return load


@pytest.fixture
def complaint(load, tmp_path):
    def complaint(text: str, *settings: str) -> str:
        with pytest.raises(ScenarioError) as error:
            load(text, *settings)
        return str(error.value).replace(f"{tmp_path}/", "")

    return complaint


BROKEN = [
    ("rounds:", "roundz:", "3:1", "unknown key `roundz`; did you mean `rounds`?"),
    ("rounds: 2", "rounds: 1e-3", "3:9", "rounds: expected a whole number, found the number 0.001"),
    ("rounds: 2", "rounds: off", "3:9", "rounds: expected a whole number, found the text `off`"),
    ("rounds: 2", "rounds: 0", "3:9", "rounds: expected at least 1, found the number 0"),
    ("rounds: 2", "rounds:", "3:1", "rounds: expected a whole number, found nothing"),
    ("rounds: 2", "rounds: true", "3:9", "rounds: expected a whole number, found `true`"),
    ("rounds: 2\n", "", "1:1", "`rounds` is missing; add it (how many rounds are trained)"),
    ("rounds: 2\n", "rounds: 2\nrounds: 3\n", "4:1", "key `rounds` stands here a second time, first on line 3"),
    ("rounds: 2\n", "rounds: 2\n\tseed: 1\n", "4:1", "a tab cannot indent"),
    ("version: 1", "version: 2", "1:10", "version: expected `1`, found the number 2"),
    ("name: tiny", "name: 5", "2:7", "name: expected text, found the number 5; put it in quotes"),
    ("name: tiny", "name: !!python/object:os.system tiny", "2:7", "name: tag `!!python/object:os.system` is unknown"),
    ("alpha: 0.3", "alpa: 0.3", "4:54", "data.partition: unknown key `alpa`; did you mean `alpha`?"),
    ("alpha: 0.3", "alpha: -1", "4:61", "data.partition.alpha: expected more than 0, found the number -1"),
    ("dirichlet", "dirichlett", "4:43", "data.partition: unknown kind `dirichlett`; did you mean `dirichlet`?"),
    ("model: cnn", "model: cnm", "5:8", "model: unknown kind `cnm`; did you mean `cnn`?"),
    ("count: 10", "count: ten", "7:10", "clients.count: expected a whole number, found the text `ten`"),
    ("count: 10\n", "\n", "6:1", "clients: `count` is missing; add it (how many clients"),
    ("per_round: 5", "per_round: 50", "8:14", "clients.per_round: 50 clients a round cannot be chosen from 10"),
    ("raspberry-pi-4", "raspbery-pi-4", "10:17", "clients.groups.0.profile: unknown profile `raspbery-pi-4`; did you mean"),
    ("-4, share: 0.5}", "-4, share: 0.4}", "10:5", "clients.groups: the shares of the groups add up to 0.9, expected 1"),
    ("-4, share: 0.5}", "-4}", "10:5", "clients.groups: 1 of 2 groups have a `share`"),
    ("1 MiB", "1 mb", "13:24", "clients.groups.1.budget.memory: expected a number with a unit (B, kB, MB, GB, KiB, MiB, GiB)"),
    ("2 J", "-2 J", "13:39", "clients.groups.1.budget.energy: expected a number with a unit"),
    ("budget:", "budgett:", "13:7", "clients.groups.1: unknown key `budgett`; did you mean `budget`?"),
    ("bits: 4", "bits: 40", "14:43", "clients.method.precision.bits: expected at most 16, found the number 40"),
    ("fixed, bits", "apt, bits", "14:35", "clients.method.precision: unknown key `bits`; allowed here: kind, rounding"),
    ("{kind: fedavg}", "fedavgg", "15:11", "strategy: unknown kind `fedavgg`; did you mean `fedavg`?"),
    ("inline", "inlin", "16:16", "engine.kind: expected `ray` or `inline` or `superlink`, found the text `inlin`"),
    ("workers: 1", "workers: 0", "16:33", "engine.workers: expected `auto` or at least 1, found the number 0"),
    ("{kind: inline, workers: 1}", "[inline]", "16:9", "engine: expected a block of keys, found a list of 1"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "place", "sentence"), BROKEN)
def test_a_broken_scenario_is_one_sentence_with_file_line_and_column(complaint, old, new, place, sentence):
    assert TINY.count(old) == 1
    said = complaint(TINY.replace(old, new))
    assert said.startswith(f"tiny.yaml:{place}: {sentence}")
    assert "\n" not in said


@given(st.integers(0, len(TINY)), st.integers(0, 12), st.text(st.sampled_from("0a1: \n-,[]{}'&*!%.e"), max_size=6))
def test_whatever_is_changed_in_a_file_it_loads_or_fails_in_words(start, length, new):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.yaml"
        path.write_text(TINY[:start] + new + TINY[start + length :])
        try:
            load_scenario(str(path))
        except ScenarioError as error:
            assert all(re.match(rf"{path}:\d+:\d+: [^\n]+$", line) for line in str(error).splitlines())
            assert "Input should" not in str(error)
            assert "something else (" not in str(error)


def test_all_errors_are_reported_at_once_in_the_order_of_the_file(complaint):
    text = TINY.replace("version: 1", "version: 3").replace("name: tiny", "name: .inf").replace("share: 0.5}", "shar: 1}")
    lines = complaint(text.replace("inline", "x"), "seed=-1").splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "tiny.yaml:1:10", "tiny.yaml:2:7", "tiny.yaml:10:33", "tiny.yaml:16:16", "--set seed=-1",
    ]  # fmt: skip


def test_a_bare_name_is_short_for_a_block_with_that_kind(load):
    short = load(TINY.replace("{kind: fedavg}", "fedavg").replace("{kind: fixed, bits: 4}", "fixed"))
    long = load(TINY.replace("{kind: fixed, bits: 4}", "{kind: fixed}"))
    assert short == long


@pytest.mark.parametrize("key", ["rounds", "clients.local.epochs", "clients.local.batch", "engine.threads"])
def test_numbers_that_no_machine_could_count_to_are_refused(load, key):
    with pytest.raises(ScenarioError, match=f"{key}: expected at most"):
        load(TINY, f"{key}=100000000000000000000")


def test_left_out_blocks_have_their_defaults(load):
    scenario = load("version: 1\nname: a\nrounds: 1\ndata: {}\nmodel: cnn\nclients: {count: 3, per_round: 3}\n")
    assert [(group.name, group.share) for group in scenario.clients.groups] == [("raspberry-pi-4", 1.0)]
    assert (scenario.seed, scenario.engine.workers, scenario.engine.threads, scenario.evaluate.every) == (0, "auto", 1, 1)
    local, method = scenario.clients.local, scenario.clients.method
    assert (local.epochs, local.batch, local.lr) == (1, 32, 0.05)
    assert [part.kind for part in (method.precision, method.backward, method.samples, method.continual)] == [
        "budget", "exact", "all", "none",
    ]  # fmt: skip


def test_a_group_overrides_key_by_key_what_all_clients_do(load):
    text = TINY.replace("share: 0.5}", "share: 0.5, local: {batch: 2}, method: {precision: fp32}}")
    first, second = load(text + "seed: 3\n", "clients.local={epochs: 0, lr: 1}").clients.groups
    assert (first.local.epochs, first.local.batch, first.local.lr) == (0, 2, 1.0)
    assert (second.local.epochs, second.local.batch, second.local.lr) == (0, 32, 1.0)
    assert (first.method.precision.kind, second.method.precision.kind) == ("fp32", "fixed")
    assert first.method.backward == second.method.backward


def test_groups_may_differ_in_their_link_and_one_that_means_nothing_is_refused_where_it_stands(load, complaint):
    text = TINY.replace("share: 0.5}", "share: 0.5, method: {link: {bits: 4, error_feedback: true}}}")
    first, second = (group.method.link for group in load(text, "clients.method.link={send: model}").clients.groups)
    assert (first.bits, first.error_feedback, first.send) == (4, True, "delta")
    assert (second.bits, second.send) == (None, "model")
    said = complaint(text.replace("bits: 4", "bits: null"))
    assert "method.link: `error_feedback` needs `bits` to compress to and `send: delta`" in str(said)


def test_groups_without_names_are_numbered_and_given_names_are_unique(load, complaint):
    names = "[{profile: stm32h7}, {profile: stm32h7}, {profile: stm32h7, name: stm32h7-2}]"
    groups = load(TINY, f"clients.groups={names}").clients.groups
    assert [group.name for group in groups] == ["stm32h7", "stm32h7-3", "stm32h7-2"]
    assert {group.share for group in groups} == {1 / 3}
    same = complaint(TINY, "clients.groups.0.name=a", "clients.groups.1.name=a")
    assert same == "tiny.yaml:10:5: clients.groups: two groups have the name `a`; change one"


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (7, [0.5, 0.3, 0.2], [4, 2, 1]),  # 3.5, 2.1, 1.4: the one left over goes to the largest remainder
        (10, [None, None, None], [4, 3, 3]),
        (200, [0.4, 0.2, 0.3, 0.1], [80, 40, 60, 20]),
        (2, [0.9, 0.05, 0.05], [2, 0, 0]),
    ],
)
def test_groups_have_exact_sizes_by_largest_remainder(load, count, shares, sizes):
    groups = ", ".join("{profile: stm32h7" + (f", share: {share}" if share else "") + "}" for share in shares)
    scenario = load(TINY, f"clients={{count: {count}, per_round: 1, groups: [{groups}]}}")
    assert [Counter(scenario.group_of_clients())[group] for group in range(len(sizes))] == sizes


def test_the_order_of_groups_is_mixed_and_follows_from_the_seed(load):
    orders = [load(TINY, "clients.count=100", f"seed={seed}").group_of_clients() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] not in (sorted(orders[0]), sorted(orders[0], reverse=True))


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("clients.count=abc", "clients.count: expected a whole number, found the text `abc`"),
        ("clients.cuont=3", "clients: unknown key `cuont`; did you mean `count`?"),
        ("clients.groups.0.budget.memory=1 potato", "clients.groups.0.budget.memory: expected a number with a unit"),
        ("strategy.trim=3", "strategy: unknown key `trim`; allowed here: kind"),
        ("strategy=fedavgg", "strategy: unknown kind `fedavgg`; did you mean `fedavg`?"),
        ("rounds={a: 1}", "rounds: expected a whole number, found a block of keys"),
        ("clients.per_round=11", "clients.per_round: 11 clients a round cannot be chosen from 10"),
    ],
)
def test_a_setting_is_checked_like_the_file_and_named(complaint, setting, sentence):
    assert complaint(TINY, setting).startswith(f"--set {setting}: {sentence}")


def test_a_setting_changes_one_value(load):
    scenario = load(TINY, "clients.groups.1.budget.memory=3 MiB", "evaluate.every=2", "clients.method.precision.bits=8")
    assert scenario.clients.groups[1].budget.memory == 3 * 2**20
    assert scenario.clients.groups[1].budget.energy == 2.0
    assert scenario.evaluate.every == 2
    assert scenario.clients.groups[0].method.precision.bits == 8


def test_a_packaged_scenario_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scenario = load_scenario("noniid")
    assert scenario.name == "noniid"
    assert [group.name for group in scenario.clients.groups] == [
        "raspberry-pi-4",
        "jetson-nano",
        "raspberry-pi-zero-2",
        "stm32h7",
        "nrf52840",
    ]
    assert scenario.clients.groups[2].budget.memory == 24 * 2**20


@pytest.mark.parametrize("name", packaged())
def test_every_packaged_scenario_loads(name):
    assert load_scenario(name).name == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("noiid", "noiid: neither a file nor a packaged scenario; did you mean `noniid`?"),
        ("zebra", "zebra: neither a file nor a packaged scenario; packaged scenarios: "),
        ("n" * 300, "n" * 300 + ": neither a file"),
        ("nowhere/a.yaml", "nowhere/a.yaml: there is no such file"),
        ("a.yaml", "a.yaml: there is no such file"),
        (".", ".: is a folder"),
    ],
)
def test_a_scenario_that_is_not_there_is_one_sentence(tmp_path, monkeypatch, name, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError) as error:
        load_scenario(name)
    assert str(error.value).startswith(sentence)


def test_data_paths_start_at_the_file_and_those_of_settings_at_the_working_directory(tmp_path, monkeypatch, load):
    working = tmp_path / "elsewhere"
    working.mkdir()
    monkeypatch.chdir(working)
    text = TINY.replace("source: strokes", "source: ../a_train.parquet, test: b.parquet")
    scenario = load(text)
    assert scenario.data.source == str(tmp_path.parent / "a_train.parquet")
    assert scenario.data.test == str(tmp_path / "b.parquet")
    assert load(text, "data.source=c.parquet").data.source == str(working / "c.parquet")
    assert load_scenario("noniid", ["data.source=./c.parquet"]).data.source == str(working / "c.parquet")


def test_a_profile_of_ones_own_is_named_by_its_path(tmp_path, load, complaint):
    text = TINY.replace("raspberry-pi-4", "boards/mine.yaml")
    said = complaint(text)
    assert said == "tiny.yaml:10:17: clients.groups.0.profile: there is no file boards/mine.yaml; check the path"
    (tmp_path / "boards").mkdir()
    (tmp_path / "boards" / "mine.yaml").touch()
    group = load(text).clients.groups[0]
    assert (group.profile, group.name) == (str(tmp_path / "boards" / "mine.yaml"), "mine")


def test_a_folder_is_a_path_if_it_exists_and_else_a_name_on_the_hub(tmp_path, load):
    text = TINY.replace("strokes", "fashion_mnist")
    assert load(text).data.source == "fashion_mnist"
    (tmp_path / "fashion_mnist").mkdir()
    assert load(text).data.source == str(tmp_path / "fashion_mnist")


def names(*allowed):
    return st.sampled_from(allowed)


GROUPS = st.lists(
    st.fixed_dictionaries(
        {"profile": names("raspberry-pi-4", "jetson-nano", "stm32h7")},
        optional={
            "budget": st.fixed_dictionaries({}, optional={"memory": st.integers(1, 2**53), "energy": st.floats(1e-9, 1e9)}),
            "local": st.fixed_dictionaries({}, optional={"epochs": st.integers(0, 9), "lr": st.floats(1e-9, 10)}),
            "method": st.fixed_dictionaries({}, optional={"precision": names("fp32", "fixed", {"kind": "apt", "t_min": 1.5})}),
        },
    ),
    min_size=1,
    max_size=4,
)
ANY = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "name": st.text(st.characters(codec="utf-8"), min_size=1, max_size=80),
        "rounds": st.integers(1, 10**6),
        "data": st.fixed_dictionaries({}, optional={"partition": names("iid", {"kind": "dirichlet", "alpha": 0.1})}),
        "model": names("cnn", "mlp", "char-gru", {"kind": "mlp", "hidden": [3, 2]}),
        "clients": st.fixed_dictionaries({"count": st.integers(9, 10**6), "per_round": st.integers(1, 9), "groups": GROUPS}),
    },
    optional={
        "seed": st.integers(0, 2**63 - 1),
        "engine": st.fixed_dictionaries({}, optional={"workers": names("auto", 1, 3), "task_timeout_s": st.floats(1e-9, 1e9)}),
        "energy_table": names("linear", "horowitz", "bitops"),
    },
)


@settings(max_examples=50)
@given(ANY)
def test_a_written_scenario_reads_back_equal(values):
    scenario = Scenario.model_validate(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resolved.yaml"
        path.write_text(dump_scenario(scenario), encoding="utf-8")
        again = load_scenario(str(path))
    assert again == scenario
    assert again.group_of_clients() == scenario.group_of_clients()


def test_a_model_is_a_name_or_a_block_with_options(load, complaint):
    assert load(TINY).model.kind == "cnn" and load(TINY, "model=mlp").model == load(TINY, "model={kind: mlp, hidden: [64]}").model
    assert load(TINY.replace("model: cnn", "model: {kind: mlp, hidden: [128, 64]}")).model.hidden == [128, 64]
    assert "model: unknown key `hiden`; did you mean `hidden`?" in complaint(
        TINY.replace("model: cnn", "model: {kind: mlp, hiden: [9]}")
    )


def test_text_says_how_it_becomes_tokens_by_name_or_block(load, complaint):
    assert load(TINY, "data.source=a.parquet", "data.tokens=words").data.tokens.vocabulary == 4096
    assert "data.tokens: unknown kind `wods`; did you mean `words`?" in complaint(
        TINY, "data.source=a.parquet", "data.tokens=wods"
    )


def test_the_written_scenario_says_every_default_and_units(load):
    written = YAML(typ="safe").load(dump_scenario(load(TINY)))
    assert list(written)[:4] == ["version", "name", "seed", "rounds"]
    assert written["clients"]["local"] == {"epochs": 1, "batch": 32, "lr": 0.05}
    assert written["clients"]["groups"][1]["budget"] == {"memory": "1 MiB", "energy": "2 J", "battery": None}
    assert written["evaluate"] == {"every": 1, "clients_every": None}


def test_settings_reach_the_groups_of_a_written_scenario(tmp_path, load):
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_scenario(load(TINY)))
    groups = load_scenario(str(path), ["clients.local.lr=0.5"]).clients.groups
    assert [group.local.lr for group in groups] == [0.5, 0.5]


def test_the_committed_schema_is_up_to_date():
    committed = json.loads((SCENARIOS / "schema.json").read_text())
    assert committed == scenario_schema(), "regenerate it: `fedapt schema > scenarios/schema.json`"


@pytest.mark.parametrize("name", packaged())
def test_the_schema_accepts_the_packaged_scenarios_and_what_is_written(name):
    validator = jsonschema.Draft202012Validator(scenario_schema())
    yaml = YAML(typ="safe")
    validator.validate(yaml.load(SCENARIOS / f"{name}.yaml"))
    validator.validate(yaml.load(dump_scenario(load_scenario(name))))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rounds:", "roundz:"),
        ("rounds: 2", "rounds: 0"),
        ("cnn", "cnm"),
        ("1 MiB", "1 mb"),
        ("fedavg", "fedavgg"),
        ("inline", "x"),
    ],
)
def test_the_schema_refuses_what_reading_refuses(old, new):
    validator = jsonschema.Draft202012Validator(scenario_schema())
    yaml = YAML(typ="safe")
    assert validator.is_valid(yaml.load(TINY))
    assert validator.is_valid(yaml.load(TINY.replace("{kind: fedavg}", "fedavg")))
    assert not validator.is_valid(yaml.load(TINY.replace(old, new)))


def test_an_editor_can_say_what_every_key_of_a_scenario_is_for():
    schema = scenario_schema()
    blocks = {"Scenario": schema, **schema["$defs"]}
    own = ("Scenario", "Clients", "Group", "Limits", "Local", "Method", "Engine", "Evaluate")
    keys = [(block, key, value) for block in own for key, value in blocks[block]["properties"].items()]
    assert [f"{block}.{key}" for block, key, value in keys if "description" not in value] == []
