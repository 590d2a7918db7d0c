"""A bench file becomes its cells, or one line for each thing that is wrong with it."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from fedapt.benchmark.file import bench_schema
from fedapt.benchmark.grid import _label, load_bench
from fedapt.clients.backward import RULES
from fedapt.clients.samples import FILTERS
from fedapt.errors import ScenarioError
from fedapt.scenario import load_scenario, packaged

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def complaint(path, *settings):
    with pytest.raises(ScenarioError) as error:
        load_bench(str(path), settings)
    return str(error.value).replace(f"{path.parent}/", "")


def test_cells_are_all_combinations_seed_by_seed(write):
    cells = load_bench(str(write())).cells
    assert [cell.name for cell in cells] == ["fedavg_seed-0", "fedadam_seed-0", "fedavg_seed-1", "fedadam_seed-1"]
    assert [(cell.scenario.strategy.kind, cell.scenario.seed) for cell in cells[1:3]] == [("fedadam", 0), ("fedavg", 1)]


def test_one_value_of_an_axis_can_set_several_keys(write):
    value = "{label: both, set: {strategy: fedavgm, clients.local.lr: 0.5, clients.method.activations: 8}}"
    cell = load_bench(str(write(("{kind: fedadam, eta: 0.01}", value)))).cells[1]
    group = cell.scenario.clients.groups[0]
    assert cell.title == "both, seed 0"
    assert (cell.scenario.strategy.kind, group.local.lr, group.method.activations) == ("fedavgm", 0.5, 8)


def test_a_kind_that_is_there_twice_is_told_by_its_options(write):
    path = write(("[fedavg, {kind: fedadam, eta: 0.01}]", "[fedavg, {kind: fedadam, eta: 0.01}, {kind: fedadam, eta: 0.1}]"))
    assert [cell.settings["strategy"] for cell in load_bench(str(path)).cells[:3]] == [
        "fedavg",
        "fedadam eta=0.01",
        "fedadam eta=0.1",
    ]


def test_combinations_can_be_left_out(write):
    path = write(("baseline:", "exclude: [{strategy: fedadam, seed: 1}]\nbaseline:"))
    assert [cell.title for cell in load_bench(str(path)).cells] == ["fedavg, seed 0", "fedadam, seed 0", "fedavg, seed 1"]


def test_a_base_may_be_a_file_whose_paths_start_at_its_own_folder(write, tmp_path):
    (tmp_path / "deep").mkdir()
    base = "version: 1\nname: b\nrounds: 1\ndata: {source: ./x.parquet}\nmodel: cnn\nclients: {count: 3, per_round: 2}\n"
    (tmp_path / "deep" / "b.yaml").write_text(base)
    (tmp_path / "other.yaml").write_text(
        "version: 1\nname: o\nbase: deep/b.yaml\naxes: {rounds: [1, 2], data.test: [./t.parquet]}\n"
    )
    scenario = load_bench(str(tmp_path / "other.yaml")).cells[0].scenario
    assert (scenario.data.source, scenario.data.test) == (f"{tmp_path}/deep/x.parquet", f"{tmp_path}/t.parquet")


def test_settings_go_to_the_file_or_to_every_scenario(write):
    bench = load_bench(str(write()), ["axes.seed=[7]", "axes.clients.local.lr=[0.2]", "rounds=5", "target_accuracy=0.5"])
    assert [(cell.scenario.seed, cell.scenario.rounds, cell.scenario.clients.local.lr) for cell in bench.cells] == [
        (7, 5, 0.2)
    ] * 2
    assert bench.target_accuracy == 0.5


BROKEN = [
    ("version: 1\nname: tiny", "version: 2\nname: tiny", "tiny.yaml:1:10: version: expected `1`, found the number 2"),
    ("axes:", "axis:", "tiny.yaml:11:1: unknown key `axis`; did you mean `axes`?"),
    ("[fedavg, ", "[fedavgg, ", "baseline.strategy: `fedavgg`"),
    ("eta: 0.01", "eta: -1", "tiny.yaml:12:43: strategy.eta: expected more than 0, found the number -1 (in 2 of 4 cells"),
    ("rounds: 2", "rounds: 0", "tiny.yaml:6:11: rounds: expected at least 1, found the number 0 (in all 4 cells)"),
    ("  seed: [0, 1]", "  seed: [0, -1]", "tiny.yaml:13:13: seed: expected at least 0, found the number -1 (in 2 of 4 cells"),
    ("  seed: [0, 1]", "  seed: [0, 0]", "tiny.yaml:13:13: axes.seed.1: `0` stands there twice"),
    ("  seed: [0, 1]", "  method: [0, 1]", "unknown key `method`; allowed here: version, name"),
    ("  seed: [0, 1]", "  seed: []", "tiny.yaml:13:9: axes.seed: expected a list of at least 1, found a list of 0"),
    ("  seed: [0, 1]", "  x: [{label: a, sett: {}}]", "axes.x.0: unknown key `sett`; allowed here: label, set"),
    ("  seed: [0, 1]", "  clients.groups: [[{profile: laptop}]]", "axes.clients.groups.0: a list needs a label: write"),
    ("baseline: {strategy: fedavg}", "baseline: {strateg: fedavg}", "baseline: there is no axis `strateg`; did you mean"),
    ("baseline: {strategy: fedavg}", "baseline: {strategy: median}", "baseline.strategy: `median` is no label of the axis"),
    ("baseline: {strategy: fedavg}", "baseline: {seed: 0}", "tiny.yaml:14:12: baseline: arms are compared over all seeds"),
    ("baseline:", "exclude: [{strategy: x}]\nbaseline:", "exclude.0.strategy: `x` is no label of the axis; labels: fedavg"),
    ("inline", "superlink", "a bench plays its cells by `ray` or `inline`"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "sentence"), BROKEN)
def test_a_mistake_is_said_with_its_place_before_anything_runs(write, old, new, sentence):
    path = write((old, new))
    if "fedavgg" in new:
        sentence = "`fedavg` is no label of the axis; did you mean `fedavgg`?"
    assert sentence in complaint(path)


def test_several_mistakes_are_said_at_once(write):
    said = complaint(write(("rounds: 2", "rounds: 0"), ("eta: 0.01", "eta: -1")), "clients.count=x").splitlines()
    assert [line.split(": ")[0] for line in said] == ["tiny.yaml:6:11", "tiny.yaml:12:43", "--set clients.count=x"]


def test_cells_that_are_the_same_scenario_are_refused(write):
    assert "the cells fedavg, seed 0 and fedavg, seed 1 are the same scenario" in complaint(write(), "seed=3")


@pytest.mark.parametrize(
    ("load", "name", "sentence"),
    [
        (load_scenario, "bench", "bench is a bench of several scenarios, not one; use `fedapt bench bench`"),
        (load_bench, "noniid", "noniid is one scenario, not a bench of several; use `fedapt run noniid`"),
        (load_bench, "bench-skw", "neither a file nor a packaged bench; did you mean `bench-skew`?"),
    ],
)
def test_a_bench_is_no_scenario_and_the_other_way_round(load, name, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError, match=sentence.replace("?", "[?]")):
        load(name)


@pytest.mark.parametrize("name", packaged(benches=True))
def test_every_packaged_bench_loads_and_follows_the_schema(name):
    bench = load_bench(name)
    assert bench.name == name and len(bench.cells) >= 50
    jsonschema.validate(YAML(typ="safe").load(SCENARIOS / f"{name}.yaml"), bench_schema())


def test_a_packaged_bench_is_told_by_what_is_in_it():
    assert "methods" in packaged(benches=True)
    assert set(packaged()) & set(packaged(benches=True)) == set()


def test_the_bench_of_methods_has_every_method_at_every_precision_over_the_same_seeds():
    cells = load_bench("methods").cells
    arms = {(cell.settings["method"], cell.settings["clients.method.precision"]) for cell in cells}
    small = {"sparse 256 KiB", "exact 256 KiB"}
    methods = {method for method, _ in arms} - small
    whole = {(method, precision) for method in methods for precision in ("fp32", "8 bits", "4 bits", "budget")}
    assert arms == whole | {(method, "budget") for method in small} and len(cells) == 3 * len(arms)
    groups = [cell.scenario.clients.groups[0].method for cell in cells]
    assert {one.backward.kind for one in groups} == set(RULES)
    assert {one.samples.kind for one in groups} == set(FILTERS)


def test_the_committed_schema_of_benches_is_up_to_date():
    committed = json.loads((SCENARIOS / "bench.schema.json").read_text())
    assert committed == bench_schema(), "regenerate it: `fedapt schema --bench > scenarios/bench.schema.json`"


def test_a_base_that_is_none_is_said_at_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "b.yaml"
    path.write_text("version: 1\nname: b\nbase: bench\naxes: {seed: [0]}\n")
    assert complaint(path).endswith("b.yaml:3:7: base: bench is a bench of several scenarios, not one")


def test_long_numbers_have_short_labels():
    assert _label(1.0e9) == "1e+09" and _label(0.1) == "0.1" and _label(1 / 3) == "0.3333333333333333"
