"""What a run is judged by: accuracy, fairness, and what it took to a target accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fedapt.report.figures import byte_count, decimal, joules, macs, memory, percent, seconds
from fedapt.results import Run

LATE = 5


@dataclass(frozen=True)
class Measure:
    """A column of a comparison. about: what it is; write: how people read it; lower is better unless `rising`."""

    name: str
    title: str
    about: str
    write: Callable[[float | None], str]
    rising: bool = False


def _rounds(value: float | None) -> str:
    return decimal(value, 0 if value is not None and float(value).is_integer() else 1)


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("accuracy", "accuracy", "of the global model on the test set, after the last round", percent, rising=True),
        Measure(
            "accuracy_late",
            "last five",
            f"mean of the last {LATE} scores: the last one alone may be chance",
            percent,
            rising=True,
        ),
        Measure(
            "accuracy_p10", "p10 of clients", "a tenth of the clients stay below, each on its own samples", percent, rising=True
        ),
        Measure("rounds_to_target", "rounds", "rounds until the accuracy first was the target or more", _rounds),
        Measure("seconds_to_target", "time", "simulated clock at the end of that round", seconds),
        Measure("joules_to_target", "energy", "of all clients up to that round", joules),
        Measure("bytes_to_target", "bytes", "down and up, of all clients up to that round", byte_count),
        Measure("update_macs", "MACs", "of a client in a round: of all clients, for each update that was aggregated", macs),
        Measure("update_energy_j", "energy", "of a client in a round, likewise", joules),
        Measure("update_bytes", "bytes", "of a client in a round, down and up, likewise", byte_count),
        Measure("memory_bytes", "peak memory", "of the client that needs most", memory),
        Measure("energy_j", "energy", "of all clients over all rounds", joules),
        Measure("time_s", "time", "simulated clock after the last round", seconds),
        Measure("traffic_bytes", "bytes", "down and up, of all clients over all rounds", byte_count),
    )
}
OF_AN_UPDATE = ("update_macs", "update_energy_j", "update_bytes")
TO_TARGET = ("rounds_to_target", "seconds_to_target", "joules_to_target", "bytes_to_target")


def measured(run: Run, target: float | None) -> dict[str, float]:
    """Return what is known of a run, by the names of MEASURES: without a round nothing is, to a target missed nothing is.

    accuracy_p10: the accuracy that a tenth of the clients stay below, each at its own bits on its held-out samples.
    """
    summary, total = run.summary, run.summary["total"]
    if not summary["rounds"]:
        return {}
    spread = summary["client_accuracy"] or {}
    figures = {
        "accuracy": summary["accuracy"],
        "accuracy_late": run.rounds["accuracy"].dropna().tail(LATE).mean(),
        "accuracy_p10": spread.get("p10"),
        **to_target(run, target),
        **_of_an_update(total),
        "memory_bytes": total["memory_bytes"],
        "energy_j": total["energy_j"],
        "time_s": summary["simulated_time_s"],
        "traffic_bytes": total["downlink_bytes"] + total["uplink_bytes"],
    }
    return {name: float(value) for name, value in figures.items() if value is not None}


def _of_an_update(total: Mapping[str, float]) -> dict[str, float]:
    """Return what a client spends in a round, on average; nothing without an update."""
    if not total["updates"]:
        return {}
    sums = (total["macs"], total["energy_j"], total["downlink_bytes"] + total["uplink_bytes"])
    return dict(zip(OF_AN_UPDATE, (spent / total["updates"] for spent in sums), strict=True))


def to_target(run: Run, target: float | None) -> Mapping[str, float]:
    """Return what the rounds up to the first score of at least `target` took; nothing if there is none."""
    rounds = run.rounds
    reached = list(rounds.index[rounds["accuracy"] >= target]) if target is not None else []
    if not reached:
        return {}
    upto = rounds.loc[: reached[0]]
    traffic = upto["downlink_bytes"] + upto["uplink_bytes"]
    figures = (len(upto), upto["clock_s"].iloc[-1], upto["energy_j"].sum(), traffic.sum())
    return dict(zip(TO_TARGET, map(float, figures), strict=True))
