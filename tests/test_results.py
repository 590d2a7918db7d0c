import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import safetensors.numpy
import torch

from fedapt.cost.ledger import ClientRecord, LedgerRow, RoundRecord
from fedapt.errors import DamagedData, SetupError
from fedapt.record.totals import Totals
from fedapt.results import RunFolder, read_run
from tests.report.example import LAYERS, Example

EXAMPLE = Example(rounds=5)


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return EXAMPLE.write(tmp_path)


@pytest.fixture
def stopped(finished: Path) -> Path:
    """The results of a run that has not played all its rounds: no manifest vouches for them."""
    (finished / "manifest.json").unlink()
    return finished


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    return EXAMPLE.write(tmp_path, finish=False)


def test_two_runs_in_one_second_have_two_folders(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda form: "-20261120-181500")
    names = [RunFolder.create(tmp_path / "runs", "noniid").path.name for _ in range(3)]
    assert names == ["noniid-20261120-181500", "noniid-20261120-181500-2", "noniid-20261120-181500-3"]


def test_no_name_leads_out_of_the_root(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, "../../etc/a b").path.parent == tmp_path
    assert RunFolder.create(tmp_path, "...").path.name.startswith("run-")


def test_a_root_that_is_a_file_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(SetupError, match=r"runs: no run folder can be made there .* Choose a writable folder"):
        RunFolder.create(tmp_path / "runs", "noniid")


def test_a_finished_folder_holds_what_its_readme_names(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    readme = (finished / "README.txt").read_text()
    assert names == {
        "README.txt", "scenario.yaml", "environment.json", "rounds.csv", "clients.csv", "ledger.parquet",
        "model.safetensors", "summary.json", "manifest.json",
    }  # fmt: skip
    assert all(name in readme for name in names - {"README.txt"})


def test_the_one_liners_of_the_readme_work(finished: Path) -> None:
    assert len(pandas.read_csv(finished / "rounds.csv")) == 5
    assert len(pandas.read_csv(finished / "clients.csv")) == 200
    ledger = pandas.read_parquet(finished / "ledger.parquet")
    assert list(ledger.columns) == [column.name for column in fields(LedgerRow)]


def test_a_run_under_way_can_be_read_with_pandas(killed: Path) -> None:
    assert len(pandas.concat(map(pandas.read_parquet, killed.glob("rounds/*/ledger.parquet")))) == sum(
        len(EXAMPLE.rows(number)) for number in range(5)
    )


def test_rounds_come_back_to_the_last_digit_with_bits_by_layer(finished: Path) -> None:
    rounds = read_run(finished).rounds
    assert rounds["accuracy"].tolist() == [EXAMPLE.record(number).accuracy for number in range(5)]
    assert rounds[[f"bits.{layer}" for layer in LAYERS]].to_numpy().tolist() == [
        list(EXAMPLE.record(number).wish_bits.values()) for number in range(5)
    ]


def test_rows_are_stored_in_order_whoever_answered_first(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "order")
    folder.commit_round(EXAMPLE.record(0), EXAMPLE.rows(0)[::-1], {})
    stored = pandas.read_parquet(folder.path / "rounds" / "00000" / "ledger.parquet")
    assert stored["client"].tolist() == sorted(row.client for row in EXAMPLE.rows(0))


def test_totals_of_the_summary_equal_the_sums_of_the_ledger(finished: Path) -> None:
    run = read_run(finished)
    for figure in ("energy_j", "time_s", "downlink_bytes", "uplink_bytes"):
        assert run.summary["total"][figure] == pytest.approx(run.ledger[figure].sum(), rel=1e-12)
        for group in run.summary["groups"]:
            of_group = run.ledger[run.ledger["group"] == group["group"]]
            assert group[figure] == pytest.approx(of_group[figure].sum(), rel=1e-12)
    assert run.rounds["energy_j"].sum() == pytest.approx(run.ledger["energy_j"].sum(), rel=1e-12)


def test_clients_and_scenario_come_back(finished: Path) -> None:
    run = read_run(finished)
    assert [ClientRecord(**row) for row in run.clients.to_dict("records")][1:] == EXAMPLE.clients()[1:]
    assert np.isnan(run.clients["accuracy"][0])
    assert "name: noniid" in run.scenario
    assert run.environment["torch"] == torch.__version__
    assert run.layers == LAYERS


def test_a_group_called_na_keeps_its_name(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "names")
    folder.write_start("rounds: 1\n", {})
    clients = [replace(EXAMPLE.clients()[0], group="NA", reason='a,\n"b"')]
    folder.finish({}, clients, Totals().summarise((), clients))
    assert read_run(folder.path).clients[["group", "reason"]].to_numpy().tolist() == [["NA", 'a,\n"b"']]


def test_layer_bits_are_the_mean_over_aggregated_updates(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "bits")
    folder.write_start("rounds: 1\n", {})
    row = LedgerRow(0, 0, 1, "g", "p", "ok", layer_bits=[4, 8])
    rows = [row, replace(row, client=1, layer_bits=[8, 8]), replace(row, client=2, status="rejected", layer_bits=[16, 16])]
    record = replace(EXAMPLE.record(0), wish_bits={"a": 6, "b": 8})
    folder.commit_round(record, [*rows, replace(row, client=3, status="refused", layer_bits=[])], {})
    bits = read_run(folder.path).layer_bits()
    assert bits.to_dict() == {"a": {0: 6.0}, "b": {0: 8.0}}


def test_a_killed_run_is_added_up_from_its_rounds(killed: Path) -> None:
    run = read_run(killed)
    totals = Totals()
    for number in range(5):
        totals.add(EXAMPLE.rows(number))
    expected = totals.summarise([EXAMPLE.record(number) for number in range(5)], ())
    assert not run.finished
    assert run.clients.empty
    assert run.summary == json.loads(json.dumps(asdict(expected)))


def test_half_a_last_line_is_left_out(stopped: Path) -> None:
    with open(stopped / "rounds.csv", "a") as file:
        file.write("5,0.9")
    assert read_run(stopped).rounds["round"].tolist() == [0, 1, 2, 3, 4]


def test_the_rounds_of_a_killed_run_are_those_committed_whatever_rounds_csv_says(killed: Path, finished: Path) -> None:
    (killed / "rounds.csv").write_text("round,accu")
    pandas.testing.assert_frame_equal(read_run(killed).rounds, read_run(finished).rounds, check_exact=True)


def test_a_flipped_bit_in_a_finished_run_is_never_a_wrong_number(finished: Path) -> None:
    for path in sorted(finished.iterdir()):
        data = path.read_bytes()
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        if path.name != "README.txt":
            with pytest.raises(DamagedData, match=r"is not as it was written|manifest\.json cannot be read"):
                read_run(finished)
        path.write_bytes(data)


def test_a_run_stopped_in_its_first_round_can_be_finished_and_read(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "short")
    folder.write_start("rounds: 3\n", {})
    folder.finish({}, [], Totals().summarise((), ()))
    run = read_run(folder.path)
    assert (len(run.rounds), len(run.ledger), run.summary["accuracy"], run.layer_bits().size) == (0, 0, None, 0)


def test_a_run_that_has_only_begun_can_be_read(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "short")
    folder.write_start("rounds: 3\n", {})
    run = read_run(folder.path)
    assert (len(run.rounds), run.ledger.empty, run.summary["rounds"]) == (0, True, 0)


def test_a_killed_process_leaves_whole_rounds_and_nothing_else(tmp_path: Path) -> None:
    code = """if True:
        import sys
        from tests.report.example import Example, Path, RunFolder
        folder = RunFolder.create(Path(sys.argv[1]), "killed")
        folder.write_start("rounds: 9", {})
        example = Example()
        for number in range(10**6):
            folder.commit_round(example.record(number), example.rows(number), {})
    """
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1]) as child:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*/rounds/*/ledger.parquet"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
    run = read_run(next(tmp_path.iterdir()))
    assert len(run.rounds) >= 4
    assert run.ledger["round"].value_counts().to_dict() == {number: len(Example().rows(number)) for number in run.rounds["round"]}


@pytest.mark.parametrize(
    "name", ["environment.json", "rounds.csv", "clients.csv", "summary.json", "scenario.yaml", "ledger.parquet"]
)
def test_a_damaged_file_is_one_sentence_with_its_path(stopped: Path, name: str) -> None:
    (stopped / name).write_bytes(b"\xff\x00 not what it was\n")
    with pytest.raises(DamagedData, match=rf"{name}.*Restore it") as caught:
        read_run(stopped)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rounds.csv", "round,accuracy\n0,0.5\n", "no column loss"),
        ("clients.csv", ",".join(column.name for column in fields(ClientRecord)) + "\n1,g,p,many,0,0,0,0,0,ok,\n", "samples"),
        ("rounds.csv", "", "does not hold the rounds 0 to 4"),
        ("summary.json", "{}", "it has no entry rounds, accuracy"),
        ("environment.json", "[1]", "it has no entry"),
    ],
)
def test_well_formed_files_with_other_content_are_refused(stopped: Path, name: str, content: str, problem: str) -> None:
    (stopped / name).write_text(content)
    with pytest.raises(DamagedData, match=rf"{name} cannot be read \(.*{problem}"):
        read_run(stopped)


@pytest.mark.parametrize("name", ["ledger.parquet", "record.json", "manifest.json"])
def test_a_missing_file_of_a_round_is_named_with_what_to_do(killed: Path, name: str) -> None:
    (killed / "rounds" / "00003" / name).unlink()
    with pytest.raises(DamagedData, match=rf"00003/{name} cannot be read .*`fedapt resume` goes on from the newest whole round"):
        read_run(killed)


def test_a_folder_that_is_no_run_is_a_setup_error(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"is not a run folder .* Give the path that `fedapt run` printed first"):
        read_run(tmp_path)


def test_the_model_file_has_one_metadata_key_and_the_arrays(finished: Path) -> None:
    data = (finished / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["fedapt"])["layers"] == LAYERS
    assert len(header["__metadata__"]) == 1
    assert safetensors.numpy.load(data)["dense.weight"].shape == (10, 784)


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "diverged")
    records = [replace(EXAMPLE.record(0), loss=float("nan"))]
    folder.commit_round(records[0], [], {})
    folder.finish({}, [], Totals().summarise(records, ()))
    assert json.loads((folder.path / "summary.json").read_text(), parse_constant=pytest.fail)["loss"] is None


def test_rounds_without_evaluation_have_empty_fields(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "sparse")
    folder.write_start("rounds: 2\n", {})
    folder.commit_round(replace(EXAMPLE.record(0), accuracy=None, loss=None, mean_bits=None), [], {})
    run = read_run(folder.path)
    assert run.rounds[["accuracy", "loss", "mean_bits"]].isna().all(axis=None)
    assert run.summary["accuracy"] is None


def test_every_field_of_a_round_is_a_column(killed: Path) -> None:
    header = (killed / "rounds.csv").read_text().splitlines()[0].split(",")
    assert set(header) == {column.name for column in fields(RoundRecord)} - {"wish_bits"} | {f"bits.{layer}" for layer in LAYERS}
