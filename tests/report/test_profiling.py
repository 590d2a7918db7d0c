"""`fedapt profile`, whole: what it writes, what it prints, and what it refuses."""

import io
import os
from dataclasses import replace

import pytest

from fedapt.cost.measured import QUICK
from fedapt.cost.profiles import load_profile
from fedapt.errors import DamagedData, SetupError
from fedapt.report import profiling
from fedapt.report.profiling import origin, per_second, profile_machine


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    haste = replace(QUICK, rounds=1, calibration_rounds=1, block_s=0.0, copy_bytes=2**20, idle_s=0.0)
    monkeypatch.setattr(profiling, "QUICK", haste)


def made(path, **options):
    """Profile this machine in a hurry; return the profile and what was printed to a pipe."""
    printed = io.StringIO()
    defaults = {"calibrate": False, "quick": True, "threads": 1, "force": False}
    return profile_machine(path, **defaults | options, file=printed), printed.getvalue()


def test_the_file_is_the_profile_of_its_name_and_a_scenario_can_have_it(tmp_path):
    profile, printed = made(tmp_path / "desk.yaml")
    assert load_profile(str(tmp_path / "desk.yaml")) == profile
    assert profile.name == "desk"
    assert f"profile: {tmp_path}/desk.yaml" in printed


def test_a_calibration_is_written_and_its_two_errors_stand_side_by_side(tmp_path):
    profile, printed = made(tmp_path / "desk.yaml", calibrate=True)
    calibration = load_profile(str(tmp_path / "desk.yaml")).calibration
    assert calibration is not None and calibration == profile.calibration
    everything = printed[printed.index("unseen width, batch  unseen family") :].partition("\nall")[2].splitlines()[0]
    assert everything.split() == [f"{100 * calibration.unseen_error:.1f}", "%", f"{100 * calibration.left_out_error:.1f}", "%"]


def test_a_pipe_gets_plain_lines_of_eighty_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, printed = made(profiling.Path("desk.yaml"), calibrate=True)
    assert "\x1b" not in printed and printed.isascii()
    assert max(map(len, printed.splitlines())) <= 80
    assert "profile: ./desk.yaml" in printed


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("desk", r"a profile's name ends in \.yaml; write -o .*desk\.yaml"),
        ("nowhere/desk.yaml", r"there is no folder .*nowhere"),
        ("there.yaml", r"there\.yaml exists already; .* --force"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_measured(name, sentence, tmp_path, monkeypatch):
    (tmp_path / "there.yaml").write_text("mine")
    monkeypatch.setattr(profiling, "measured_profile", None)
    with pytest.raises(SetupError, match=sentence):
        made(tmp_path / name)
    assert (tmp_path / "there.yaml").read_text() == "mine"


def test_more_threads_than_cores_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "measured_profile", None)
    with pytest.raises(SetupError, match=r"--threads 100000: fedapt may use \d+ cores? here"):
        made(tmp_path / "desk.yaml", threads=100_000)


def test_a_file_is_replaced_by_force(tmp_path):
    (tmp_path / "desk.yaml").write_text("mine")
    made(tmp_path / "desk.yaml", force=True)
    assert load_profile(str(tmp_path / "desk.yaml")).name == "desk"


def test_a_write_that_fails_at_the_end_is_a_sentence(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DamagedData, match=r"desk\.yaml could not be written: the disk is full"):
        made(tmp_path / "desk.yaml")
    assert list(tmp_path.iterdir()) == []


def test_figures_are_written_with_units_and_sources_shortly():
    assert per_second(1.6e10, "MAC") == "16.0 GMAC/s"
    assert origin("measured: copies of 256 MiB, on AMD EPYC, torch 2.13") == "measured: copies of 256 MiB"
    assert origin("estimate: not measured here, the figure of the packaged profile `laptop`: 44 W") == "estimate, from `laptop`"
