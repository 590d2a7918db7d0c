import pytest
from torch import nn

from fedapt.cost.profiles import Calibration, Profile


def figure(value):
    return {"value": value, "source": "a round number for tests"}


@pytest.fixture
def device() -> Profile:
    """A board of round numbers: 1 nJ a MAC, 1 pJ a byte on chip (1 KiB), 100 pJ in DRAM, 10 nJ a byte of radio."""
    return Profile.model_validate(
        {
            "name": "round",
            "description": "round numbers",
            "memory": figure("1 MiB"),
            "on_chip_memory": figure("1 KiB"),
            "fp32_macs_per_s": figure(1e6),
            "memory_bytes_per_s": figure(1e5),
            "fp32_mac_energy": figure(1e-9),
            "on_chip_energy_j_per_byte": figure(1e-12),
            "dram_energy_j_per_byte": figure(1e-10),
            "uplink_bytes_per_s": figure(1000.0),
            "downlink_bytes_per_s": figure(2000.0),
            "radio_j_per_byte": figure(1e-8),
        }
    )


@pytest.fixture
def calibrated(device) -> Profile:
    """The same board, calibrated: coefficients are powers of two, so that each part shows in a sum."""
    coefficients = {
        "step_s": 4.0,
        "convolution_launch_s": 2.0**-3,
        "other_launch_s": 2.0**-5,
        "dense_mac_s": 2.0**-16,
        "grouped_mac_s": 2.0**-12,
        "activation_byte_s": 2.0**-20,
        "coded_weight_s": 2.0**-14,
    }
    errors = {"unseen_error": 0.1, "left_out_error": 0.2, "unseen_error_by_family": {"cnn": 0.1}}
    source = {"left_out_error_by_family": {"cnn": 0.2}, "source": "round numbers for tests"}
    return device.model_copy(update={"calibration": Calibration.model_validate(coefficients | errors | source)})


@pytest.fixture
def small() -> nn.Sequential:
    """One convolution and one dense layer, for hand counts; input (2, 4, 4).

    "0": 3x3 taps over 2 channels, padding 1: 3 * 18 = 54 weights, 3 biases, 3 * 16 = 48 outputs of 18 MACs, 864 MACs.
    "3": from 48 to 5: 240 weights, 5 biases, 240 MACs.
    """
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))


@pytest.fixture
def cnn() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
