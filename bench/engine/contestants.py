"""Who is compared: the table of contestants, what each needs, and how it is played inside its own process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from bench.engine.work import Played, Work

Play = Callable[[Work, int], Played]


def floor(work: Work, workers: int) -> Played:
    """Play the bare loop."""
    from bench.engine import floor as module

    return module.play(work, workers)


def flower(work: Work, workers: int) -> Played:
    """Play Flower's simulation."""
    from bench.engine import flower as module

    return module.play(work, workers)


def pfl(work: Work, workers: int, *, everywhere: bool) -> Played:
    """Play pfl-research, in one process or in one a core."""
    from bench.engine import pfl_research as module

    return module.play_all(work, workers) if everywhere else module.play(work, workers)


def fedapt(work: Work, workers: int, *, kind: str, alone: bool = False, eight_bits: bool = False, fast: bool = False) -> Played:
    """Play fedapt. alone: with one worker; fast: with what changes the last bits: clients batched, channels last."""
    from bench.engine import own

    engine: dict[str, object] = {"kind": kind, "batch_clients": "auto" if fast else 1, "channels_last": fast}
    engine |= {"workers": 1 if alone else workers} if kind == "ray" else {}
    return own.play(work, engine, own.EIGHT_BITS if eight_bits else own.FP32)


@dataclass(frozen=True)
class Contestant:
    """peer: runs under `--peer-python`; scale: also plays the workloads that show how fedapt grows; only: what it plays."""

    play: Play
    peer: bool = False
    scale: bool = False
    only: tuple[str, ...] = ()


FLOOR = "floor"
QUANTISED = ("W2", "W3")
FASTER = ("W1", "W2", "W3", "W4")
CONTESTANTS = {
    FLOOR: Contestant(floor),
    "fedapt-inline": Contestant(functools.partial(fedapt, kind="inline")),
    "fedapt-ray-1": Contestant(functools.partial(fedapt, kind="ray", alone=True)),
    "fedapt-ray": Contestant(functools.partial(fedapt, kind="ray"), scale=True),
    "fedapt-fast": Contestant(functools.partial(fedapt, kind="ray", fast=True), only=FASTER),
    "fedapt-inline-8": Contestant(functools.partial(fedapt, kind="inline", eight_bits=True), only=QUANTISED),
    "fedapt-ray-8": Contestant(functools.partial(fedapt, kind="ray", eight_bits=True), only=QUANTISED),
    "flwr": Contestant(flower),
    "pfl": Contestant(functools.partial(pfl, everywhere=False), peer=True),
    "pfl-all": Contestant(functools.partial(pfl, everywhere=True), peer=True),
}


def plays(name: str, workload: str, scale: bool) -> bool:
    """Return whether a contestant plays a workload. scale: the workload shows how fedapt grows."""
    contestant = CONTESTANTS[name]
    return contestant.scale if scale else not contestant.only or workload in contestant.only
