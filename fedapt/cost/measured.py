"""A profile of the machine that this runs on: measured where it can be, and estimates that say so where it cannot."""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TypeVar

import torch

from fedapt.cost.calibration import Point, counts, fit, left_out_errors, medians, relative_errors
from fedapt.cost.families import FAMILIES, REFERENCE_SHAPE, Setting, reference_cnn, step_of
from fedapt.cost.host import EnergyCounter, available_bytes, last_level_cache_bytes, processor
from fedapt.cost.profiles import Calibration, Heat, Profile, Rate, Size, load_profile
from fedapt.cost.stopwatch import fastest_seconds, threads
from fedapt.quant.grid import FLOAT_BITS

MIB = 2**20
REFERENCE_BATCHES = (4, 32)
CALIBRATION_BITS = 8
# Widths and batches of the fit, and those that judge it, each with the depths that a Latin square gives them.
SEEN = [(8, 1, 2), (8, 3, 32), (16, 2, 2), (16, 1, 32), (32, 3, 2), (32, 1, 8), (32, 2, 32)]
UNSEEN = [(12, 1, 4), (12, 2, 20), (12, 3, 48), (24, 2, 4), (24, 3, 20), (24, 1, 48), (40, 3, 4), (40, 1, 20), (40, 2, 48)]
NEAREST = {"aarch64": "raspberry-pi-5", "arm64": "raspberry-pi-5", "armv7l": "raspberry-pi-4"}
Notice = Callable[[str, float], None]
Progress = Callable[[float], None]
Figure = TypeVar("Figure", Rate, Heat, Size)


@dataclass(frozen=True)
class Effort:
    """How long to measure. rounds, block_s: see `fastest_seconds`; copy_bytes: size of what is copied; idle_s: for power."""

    rounds: int
    calibration_rounds: int
    block_s: float
    copy_bytes: int
    idle_s: float


THOROUGH = Effort(rounds=20, calibration_rounds=12, block_s=0.02, copy_bytes=256 * MIB, idle_s=3.0)
QUICK = Effort(rounds=3, calibration_rounds=2, block_s=0.002, copy_bytes=64 * MIB, idle_s=0.2)


def measured_profile(
    name: str,
    *,
    calibrate: bool,
    thread_count: int = 1,
    effort: Effort = THOROUGH,
    notice: Notice = lambda phase, share: None,
) -> Profile:
    """Measure this machine.

    notice: is told which phase goes on and which share of it is done, 0 to 1.
    """
    with threads(thread_count):
        where = f"on {processor()}, torch {torch.__version__}, {_timed(thread_count)}, {date.today()}"
        near = load_profile(NEAREST.get(platform.machine(), "laptop"))
        fp32, energy = _training(where, near, effort, partial(notice, "training steps"))
        int8 = _int8(where, effort, partial(notice, "matrix products"))
        copies = _copies(where, effort, partial(notice, "copies"))
        calibration = _calibration(where, effort, partial(notice, "calibration")) if calibrate else None
    command = "fedapt profile --quick" if effort == QUICK else "fedapt profile"
    return Profile(
        name=name,
        description=f"{processor()}, {platform.system()} {platform.machine()}, as `{command}` found it",
        memory=_memory(where, near),
        on_chip_memory=_cache(where, near),
        fp32_macs_per_s=fp32,
        int8_macs_per_s=int8,
        memory_bytes_per_s=copies,
        fp32_mac_energy=energy,
        on_chip_energy_j_per_byte=_borrowed(near.on_chip_energy_j_per_byte, near),
        dram_energy_j_per_byte=_borrowed(near.dram_energy_j_per_byte, near),
        uplink_bytes_per_s=_borrowed(near.uplink_bytes_per_s, near),
        downlink_bytes_per_s=_borrowed(near.downlink_bytes_per_s, near),
        radio_j_per_byte=_borrowed(near.radio_j_per_byte, near),
        calibration=calibration,
    )


def _training(where: str, near: Profile, effort: Effort, progress: Progress) -> tuple[Rate, Heat]:
    """Return fp32 MACs a second in training the default CNN, and the joules of one."""
    made = [step_of(reference_cnn, REFERENCE_SHAPE, batch, FLOAT_BITS) for batch in REFERENCE_BATCHES]
    counter = EnergyCounter.find()
    idle_w = _watts(counter, lambda: time.sleep(effort.idle_s)) if counter else 0.0
    steps = [step for _, step in made]
    seconds: list[float] = []
    busy_w = _watts(counter, lambda: seconds.extend(fastest_seconds(steps, effort.rounds, effort.block_s, progress)))
    rates = [trace.macs(batch, 1) / s for batch, (trace, _), s in zip(REFERENCE_BATCHES, made, seconds, strict=True)]
    rate = _short(math.prod(rates) ** (1 / len(rates)))
    each = " and ".join(f"{value:.2g} at batch {batch}" for value, batch in zip(rates, REFERENCE_BATCHES, strict=True))
    fp32 = Rate(value=rate, source=f"measured: training steps of fedapt's default CNN in fp32, {each}, geometric mean, {where}")
    if counter and busy_w > idle_w:
        source = f"measured: {busy_w:.1f} W in training, {idle_w:.1f} W idle (RAPL, processor package), over MAC/s, {where}"
        return fp32, Heat(value=_short((busy_w - idle_w) / rate), source=source)
    return fp32, _borrowed(near.fp32_mac_energy, near)


def _watts(counter: EnergyCounter | None, work: Callable[[], object]) -> float:
    before, began = counter.joules() if counter else 0.0, time.perf_counter()
    work()
    return ((counter.joules() if counter else 0.0) - before) / (time.perf_counter() - began)


def _int8(where: str, effort: Effort, progress: Progress, side: int = 512) -> Rate | None:
    """Return MACs a second of int8 matrix products, None where torch has none."""
    codes = torch.ones((side, side), dtype=torch.int8)
    floats = torch.ones((side, side))
    try:
        torch._int_mm(codes, codes)
    except (RuntimeError, AttributeError):
        return None
    pieces = [lambda: torch._int_mm(codes, codes), lambda: floats @ floats]
    int8_s, fp32_s = fastest_seconds(pieces, effort.rounds, effort.block_s, progress)
    beside = f"the same product in fp32 reaches {side**3 / fp32_s:.2g} MAC/s"
    source = f"measured: torch._int_mm of {side}x{side} matrices; {beside}, {where}"
    return Rate(value=_short(side**3 / int8_s), source=source)


def _copies(where: str, effort: Effort, progress: Progress) -> Rate:
    room = available_bytes()
    size = effort.copy_bytes if room is None else min(effort.copy_bytes, room[0] // 8)
    here = torch.ones(size, dtype=torch.uint8)
    there = torch.empty_like(here)
    (seconds,) = fastest_seconds([lambda: there.copy_(here)], effort.rounds, effort.block_s, progress)
    source = f"measured: copies of {size // MIB} MiB, bytes read and written, {where}"
    return Rate(value=_short(2 * size / seconds), source=source)


def _memory(where: str, near: Profile) -> Size:
    found = available_bytes()
    if found is None or found[0] < MIB:
        return _borrowed(near.memory, near)
    return Size(value=found[0] // MIB * MIB, source=f"measured: {found[1]}, with Python and torch loaded, {where}")


def _cache(where: str, near: Profile) -> Size:
    found = last_level_cache_bytes()
    if found is None:
        return _borrowed(near.on_chip_memory, near)
    return Size(value=found[0], source=f"read: level {found[1]} cache, from /sys/devices/system/cpu, shared with others, {where}")


def _timed(thread_count: int) -> str:
    return "processor time of 1 thread" if thread_count == 1 else f"{thread_count} threads"


def _borrowed(figure: Figure, near: Profile) -> Figure:
    """Return another machine's figure as an estimate that says so."""
    source = f"estimate: not measured here, the figure of the packaged profile `{near.name}`: {figure.source}"
    return figure.model_copy(update={"source": source})


def _calibration(where: str, effort: Effort, progress: Progress) -> Calibration:
    seen, unseen = ([Setting(family, *sizes) for family in FAMILIES for sizes in plan] for plan in (SEEN, UNSEEN))
    points = timed_points([*seen, *unseen], effort, progress)
    fitted, judged = points[: len(seen)], points[len(seen) :]
    coefficients = {name: _short(value, 4) for name, value in fit(fitted).items()}
    unseen_errors, left_out = relative_errors(coefficients, judged), left_out_errors(fitted, judged)
    source = (
        f"measured: {len(fitted)} training steps at {CALIBRATION_BITS} bits of {len(FAMILIES)} families, fitted; errors over"
        f" {len(judged)} steps of other widths and batches; median of a block of steps, fastest of {effort.calibration_rounds}"
        f" interleaved blocks, {where}"
    )
    return Calibration(
        **coefficients,
        unseen_error=_short(statistics.median(unseen_errors)),
        left_out_error=_short(statistics.median(left_out)),
        unseen_error_by_family={family: _short(error) for family, error in medians(unseen_errors, judged).items()},
        left_out_error_by_family={family: _short(error) for family, error in medians(left_out, judged).items()},
        source=source,
    )


def timed_points(settings: Sequence[Setting], effort: Effort, progress: Progress) -> list[Point]:
    """Time the training step of each setting."""
    made = []
    for setting in settings:
        family = FAMILIES[setting.family]
        build = partial(family.build, setting.width, setting.depth)
        made.append(step_of(build, family.shape, setting.batch, CALIBRATION_BITS))
    seconds = fastest_seconds([step for _, step in made], effort.calibration_rounds, effort.block_s, progress)
    return [
        Point(setting.family, counts(trace, setting.batch, 1), measured)
        for setting, (trace, _), measured in zip(settings, made, seconds, strict=True)
    ]


def _short(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")
