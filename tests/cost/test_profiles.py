import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fedapt
from fedapt.cost.profiles import Profile, as_yaml, load_profile, names
from fedapt.errors import ScenarioError

BOARDS = Path(fedapt.__file__).parent.parent / "clients" / "profiles"
FIGURES = [name for name in Profile.model_fields if name not in ("name", "description", "calibration")]
# Lowest and highest value that a client can have without a mistake in the unit.
PLAUSIBLE = {
    "memory": (2**17, 2**36),
    "on_chip_memory": (2**17, 2**26),
    "fp32_macs_per_s": (1e6, 1e12),
    "int8_macs_per_s": (1e8, 1e14),
    "memory_bytes_per_s": (1e8, 2e11),
    "fp32_mac_energy": (1e-11, 1e-7),
    "on_chip_energy_j_per_byte": (1e-13, 1e-10),
    "dram_energy_j_per_byte": (1e-11, 1e-9),
    "uplink_bytes_per_s": (1e5, 2e8),
    "downlink_bytes_per_s": (1e5, 2e8),
    "radio_j_per_byte": (1e-9, 1e-5),
    "battery_j": (1e3, 1e6),
    "recharge_w": (1, 100),
}


def test_the_boards_that_the_readme_promises_are_there():
    promised = {"raspberry-pi-3b-plus", "raspberry-pi-4", "raspberry-pi-5", "raspberry-pi-zero-2", "jetson-nano"}
    assert promised | {"jetson-orin-nano", "phone", "stm32h7", "nrf52840"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_every_figure_of_a_packaged_profile_is_plausible_and_has_a_source(name):
    profile = load_profile(name)
    assert profile.name == name
    for field in FIGURES:
        figure = getattr(profile, field)
        if figure is None:
            continue
        low, high = PLAUSIBLE[field]
        assert low <= figure.value <= high, field
        assert any(character.isdigit() for character in figure.source) or "estimate:" in figure.source, field


@pytest.mark.parametrize("name", names())
def test_dram_costs_more_than_the_chip_and_power_is_that_of_a_small_device(name):
    profile = load_profile(name)
    assert profile.dram_energy_j_per_byte.value > 5 * profile.on_chip_energy_j_per_byte.value
    watts = profile.fp32_mac_energy.value * profile.fp32_macs_per_s.value
    assert 0.005 < watts < 60


def test_a_battery_can_be_recharged_and_takes_hours_of_training():
    for profile in map(load_profile, names()):
        assert (profile.battery_j is None) == (profile.recharge_w is None)
        if profile.battery_j and profile.recharge_w:
            assert 0.5 < profile.battery_j.value / profile.recharge_w.value / 3600 < 5
            assert 1 < profile.battery_j.value / (profile.fp32_mac_energy.value * profile.fp32_macs_per_s.value) / 3600 < 24


def test_faster_raspberry_pis_are_faster():
    speeds = [load_profile(f"raspberry-pi-{name}").fp32_macs_per_s.value for name in ("zero-2", "3b-plus", "4", "5")]
    assert speeds == sorted(speeds)


def test_a_profile_of_ones_own_is_loaded_by_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text((BOARDS / "phone.yaml").read_text().replace("name: phone", "name: mine"))
    assert load_profile(str(path)).name == "mine"


@pytest.mark.parametrize("name", names())
def test_a_profile_is_read_back_from_the_file_that_it_writes(name, tmp_path, calibrated):
    profile = load_profile(name).model_copy(update={"calibration": calibrated.calibration})
    path = tmp_path / f"{name}.yaml"
    path.write_text(as_yaml(profile))
    assert load_profile(str(path)) == profile
    assert max(map(len, path.read_text().splitlines())) <= 130


@pytest.mark.parametrize("wrong", ["-1e-9", ".nan", "fast"])
def test_a_coefficient_below_zero_is_refused_with_its_place(wrong, tmp_path, calibrated):
    path = tmp_path / "mine.yaml"
    path.write_text(as_yaml(calibrated).replace("step_s: 4.0", f"step_s: {wrong}"))
    with pytest.raises(ScenarioError, match=r"mine\.yaml:\d+:3: calibration\.step_s: "):
        load_profile(str(path))


def test_an_unknown_profile_is_refused_with_a_suggestion():
    with pytest.raises(ScenarioError, match=r"no profile `rasberry-pi-4`; did you mean `raspberry-pi-4`\?"):
        load_profile("rasberry-pi-4")
    with pytest.raises(ScenarioError, match=r"nowhere\.yaml: there is no such file"):
        load_profile("nowhere.yaml")


def test_each_problem_of_a_profile_has_its_place(tmp_path):
    path = tmp_path / "broken.yaml"
    text = (BOARDS / "phone.yaml").read_text()
    path.write_text(text.replace("value: 1 GiB", "value: 1 GigaByte").replace("name: phone", "name: phone\ncolour: red"))
    with pytest.raises(ScenarioError) as error:
        load_profile(str(path))
    lines = str(error.value).splitlines()
    assert [line.split(": ")[:2] for line in lines] == [[f"{path}:5:3", "memory.value"], [f"{path}:2:1", "colour"]]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("name: [", "not YAML"), ("a: 1\na: 2", "not YAML"), ("just words", "no device profile"), ("", "no device profile")],
)
def test_a_file_that_is_no_profile_is_refused_in_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(ScenarioError, match=rf"wrong\.yaml: this is {sentence}"):
        load_profile(str(path))


def test_profiles_load_no_torch():
    code = "import sys, fedapt.cost.profiles as p; p.load_profile('stm32h7'); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=BOARDS.parent.parent)
    assert result.stdout == "False\n"


def test_a_file_added_to_the_folder_is_a_profile(tmp_path, monkeypatch):
    shutil.copy(BOARDS / "phone.yaml", tmp_path / "watch.yaml")
    monkeypatch.setattr("fedapt.cost.profiles._folder", lambda: tmp_path)
    assert names() == ["watch"]
    assert load_profile("watch").name == "phone"
