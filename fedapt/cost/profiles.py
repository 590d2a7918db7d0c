"""Device profiles: what a board has and what it spends, as YAML in `clients/profiles`, each figure with its source.

A board of one's own is one more file there, or any `.yaml` named by its path.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from fedapt.errors import ScenarioError
from fedapt.options import Bytes, Joules, Options

Source = Annotated[
    str, Field(min_length=10, description="a data sheet, a published benchmark, or `estimate: ` and how it was derived")
]

# Where lines begin to be broken: ruamel ends the word first.
WIDTH = 100


class Size(Options):
    """An amount of memory."""

    value: Bytes
    source: Source


class Heat(Options):
    """An amount of energy."""

    value: Joules
    source: Source


class Rate(Options):
    """A plain positive number; the unit is in the field's name."""

    value: float = Field(gt=0, allow_inf_nan=False)
    source: Source


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Calibration(Options):
    """Seconds of a training step on this very machine by what the step does, from `fedapt profile --calibrate`."""

    step_s: Seconds = Field(description="for each step, whatever the network")
    convolution_launch_s: Seconds = Field(description="for each pass of a convolution: forward, error, gradient, update")
    other_launch_s: Seconds = Field(description="for each such pass of any other layer")
    dense_mac_s: Seconds = Field(description="for each MAC outside grouped convolutions")
    grouped_mac_s: Seconds = Field(description="for each MAC of depthwise and other grouped convolutions")
    activation_byte_s: Seconds = Field(description="for each byte of inputs and saved activations that is written or read")
    coded_weight_s: Seconds = Field(description="for each quantised weight in each step: dequantised, updated, rounded")
    unseen_error: Share = Field(
        description="median of |predicted / measured - 1| over steps of widths and batches that the fit has not seen"
    )
    left_out_error: Share = Field(description="the same over the same steps, each family by a fit to the other families alone")
    unseen_error_by_family: dict[str, Share]
    left_out_error_by_family: dict[str, Share]
    source: Source

    @property
    def coefficients(self) -> dict[str, float]:
        """The seconds alone."""
        return {name: getattr(self, name) for name in COEFFICIENTS}

    def slower(self, factor: float) -> Calibration:
        """Return the calibration of a machine that takes `factor` times longer for everything."""
        return self.model_copy(update={name: value * factor for name, value in self.coefficients.items()})


COEFFICIENTS = tuple(name for name in Calibration.model_fields if name.endswith("_s"))


class Profile(Options):
    """One board. Power is taken above idle: a board that waits would draw the rest anyway."""

    name: str
    description: str
    memory: Size = Field(description="what the tensors of a training process may use: without system, program and libraries")
    on_chip_memory: Size = Field(
        description="the largest memory on the chip that training can stay in: last-level cache, or SRAM"
    )
    fp32_macs_per_s: Rate = Field(description="sustained in training small networks, not peak")
    int8_macs_per_s: Rate | None = Field(
        default=None, description="of integer matrix products, no training: fedapt computes in fp32 whatever the widths"
    )
    memory_bytes_per_s: Rate = Field(description="sustained, reads and writes counted")
    fp32_mac_energy: Heat = Field(description="power above idle while training, divided by `fp32_macs_per_s`")
    on_chip_energy_j_per_byte: Rate
    dram_energy_j_per_byte: Rate
    uplink_bytes_per_s: Rate
    downlink_bytes_per_s: Rate
    radio_j_per_byte: Rate = Field(description="network interface, above idle, sending or receiving")
    battery_j: Heat | None = Field(default=None, description="absent on a board that runs from the mains")
    recharge_w: Rate | None = Field(default=None, description="into the battery, mean over a charge while it is plugged in")
    calibration: Calibration | None = Field(default=None, description="if present, the time of training comes from it")


def names() -> list[str]:
    """Return the names of the packaged profiles, in alphabetical order."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_profile(name: str) -> Profile:
    """Load a packaged profile by name, or any `.yaml` by path.

    Raises ScenarioError, with one line for each problem, if there is no such profile or it is not valid.
    """
    file: Traversable = Path(name) if name.endswith((".yaml", ".yml")) else _folder() / f"{name}.yaml"
    if not file.is_file():
        raise ScenarioError(_unknown(name))
    try:
        read = YAML().load(file.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: this is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(read, dict):
        raise ScenarioError(f"{file}: this is no device profile, expected a mapping of keys such as `memory: 2 GiB`")
    try:
        return Profile.model_validate(_plain(read))
    except ValidationError as error:
        raise ScenarioError("\n".join(_line(file, read, problem["loc"], problem["msg"]) for problem in error.errors())) from None


class _Representer(RoundTripRepresenter):
    """Writes 1.2e+10 instead of 12000000000.0."""

    def represent_short(self, value: float) -> Any:
        short = f"{value:g}"
        plain = not set(short) & set(".e") or float(short) != value
        return self.represent_scalar("tag:yaml.org,2002:float", repr(value) if plain else short)


_Representer.add_representer(float, _Representer.represent_short)


def as_yaml(profile: Profile) -> str:
    """Return a profile as a file that `load_profile` reads back to the same figures."""
    yaml = YAML()
    yaml.width = WIDTH
    yaml.Representer = _Representer
    text = io.StringIO()
    yaml.dump(profile.model_dump(mode="json", exclude_none=True), text)
    return text.getvalue()


def _folder() -> Traversable:
    return files("fedapt.clients") / "profiles"


def _unknown(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        return f"{name}: there is no such file; a profile is the path of a .yaml or one of: {', '.join(names())}"
    close = difflib.get_close_matches(name, names(), n=1)
    hint = f"did you mean `{close[0]}`?" if close else "give the path of a .yaml for a board of your own."
    return f"there is no profile `{name}`; {hint} Packaged profiles: {', '.join(names())}"


def _line(file: Traversable, read: Any, location: Iterable[int | str], message: str) -> str:
    """Return `file:line:column: field: message`, placed at the deepest key of the location that is in the file."""
    line, column = 0, 0
    for key in location:
        if not isinstance(read, CommentedMap) or key not in read:
            break
        (line, column), read = read.lc.key(key), read[key]
    return f"{file}:{line + 1}:{column + 1}: {'.'.join(map(str, location))}: {message}"


def _plain(read: Any) -> Any:
    """Return plain dicts and numbers instead of ruamel's, which carry comments and places."""
    if isinstance(read, dict):
        return {str(key): _plain(value) for key, value in read.items()}
    return float(read) if isinstance(read, float) else read
