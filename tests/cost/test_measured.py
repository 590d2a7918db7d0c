from dataclasses import replace

import pytest

from fedapt.cost import measured
from fedapt.cost.host import EnergyCounter
from fedapt.cost.measured import QUICK, measured_profile
from fedapt.cost.profiles import load_profile

HASTE = replace(QUICK, rounds=1, calibration_rounds=1, block_s=0.0, copy_bytes=2**20, idle_s=0.0)


def test_what_is_measured_says_so_and_what_is_not_is_an_estimate(monkeypatch):
    monkeypatch.setattr(EnergyCounter, "find", lambda: None)
    profile = measured_profile("here", calibrate=False, effort=HASTE)
    for field in ("fp32_macs_per_s", "memory_bytes_per_s", "memory"):
        assert getattr(profile, field).source.startswith("measured: "), field
    for field in ("fp32_mac_energy", "dram_energy_j_per_byte", "uplink_bytes_per_s", "radio_j_per_byte"):
        assert getattr(profile, field).source.startswith("estimate: not measured here, "), field
    assert profile.calibration is None and profile.battery_j is None


def test_what_the_machine_does_not_say_is_taken_from_another_and_says_so(monkeypatch):
    monkeypatch.setattr(measured, "available_bytes", lambda: None)
    monkeypatch.setattr(measured, "last_level_cache_bytes", lambda: None)
    monkeypatch.setattr(measured.platform, "machine", lambda: "aarch64")
    profile, board = measured_profile("here", calibrate=False, effort=HASTE), load_profile("raspberry-pi-5")
    assert profile.memory.value == board.memory.value and profile.on_chip_memory.value == board.on_chip_memory.value
    assert "`raspberry-pi-5`" in profile.memory.source and profile.memory.source.startswith("estimate: ")


def test_a_torch_without_int8_products_leaves_the_figure_out(monkeypatch):
    def absent(*_):
        raise RuntimeError("not implemented")

    monkeypatch.setattr(measured.torch, "_int_mm", absent)
    assert measured_profile("here", calibrate=False, effort=HASTE).int8_macs_per_s is None


def test_energy_comes_from_the_counter_where_there_is_one(monkeypatch):
    """10 W idle and 25 W in training: 15 W over the MACs of a second."""
    watts = iter([10.0, 25.0])

    def measure(counter, work):
        work()
        return next(watts)

    monkeypatch.setattr(EnergyCounter, "find", lambda: EnergyCounter([]))
    monkeypatch.setattr(measured, "_watts", measure)
    profile = measured_profile("here", calibrate=False, effort=HASTE)
    assert profile.fp32_mac_energy.value == pytest.approx(15 / profile.fp32_macs_per_s.value, rel=0.01)
    assert "25.0 W in training, 10.0 W idle (RAPL" in profile.fp32_mac_energy.source
