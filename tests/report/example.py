"""A realistic run of unequal clients, written through the real run folder: to test the reports and to look at them.

`python -m tests.report.example runs` makes one by hand; with `--show` it plays the run in the terminal too.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from fedapt.cost.ledger import ClientRecord, LedgerRow, RoundRecord
from fedapt.environment import environment
from fedapt.record.totals import Summary, Totals
from fedapt.report.html import write_report
from fedapt.report.terminal import Display
from fedapt.results import RunFolder
from fedapt.seeding import numpy_stream

LAYERS = ["conv1", "conv2", "dense1", "dense2"]
# name, share of the clients, joules and seconds of one update, peak bytes
GROUPS = [
    ("raspberry-pi-4", 0.4, 1.9, 1.6, 3_400_000),
    ("jetson-nano", 0.2, 1.1, 0.7, 3_600_000),
    ("raspberry-pi-zero-2", 0.3, 1.4, 6.2, 3_100_000),
    ("stm32h7", 0.1, 0.6, 41.0, 900_000),
]
SCENARIO = """\
version: 1
name: noniid
seed: 0
rounds: {rounds}
data: {{source: strokes, partition: {{kind: dirichlet, alpha: 0.3}}}}
model: cnn
clients:
  count: {count}
  per_round: {cohort}
"""
REFUSED = "needs 1.31 MiB at 2 bits, the budget is 1 MiB: lower `local.batch` to 1 or take a smaller model"
CRASHED = "the worker process died while training (killed by signal 9); the client was run again"


class Example:
    """One run with `count` clients; `odd` is put in front of group names and reasons, as hostile text would be."""

    def __init__(self, rounds: int = 20, count: int = 200, cohort: int = 20, odd: str = "") -> None:
        self.rounds, self.count, self.cohort, self.odd = rounds, count, cohort, odd
        borders = np.cumsum([share for _, share, *_ in GROUPS]) * count
        self.group_of = [int(np.searchsorted(borders, client, side="right")) for client in range(count)]

    def rows(self, number: int) -> list[LedgerRow]:
        """Return the ledger rows of one round."""
        draw = numpy_stream(0, "example", number)
        cohort = sorted(int(client) for client in draw.choice(self.count, self.cohort, replace=False))
        rows = [self._row(number, client, draw) for client in cohort]
        if number % 7 == 3:
            first = rows[0]
            dead = LedgerRow(number, first.client, 1, first.group, first.profile, "failed", self.odd + CRASHED)
            rows[0] = LedgerRow(**{**vars(first), "attempt": 2})
            rows.append(dead)
        return rows

    def _row(self, number: int, client: int, draw: np.random.Generator) -> LedgerRow:
        name, _, energy, seconds, peak = GROUPS[self.group_of[client]]
        group = self.odd + name
        if name == "stm32h7" and client % 4 == 0:
            return LedgerRow(number, client, 1, group, name, "refused", self.odd + REFUSED, memory_budget_bytes=2**20)
        bits = [min(16, 6 + (number * (layer + 2)) // 12 - (2 if name == "stm32h7" else 0)) for layer in range(len(LAYERS))]
        factor = float(draw.uniform(0.6, 1.5)) * np.mean(bits) / 8
        size = int(105_000 * np.mean(bits) / 8)
        return LedgerRow(
            number, client, 1, group, name, "ok", choice=f"{self.odd}budget asks for 6 bits; batches of {4 + number % 2}",
            samples=int(300 * factor), steps=int(10 * factor) + 1, train_loss=float(2.2 * np.exp(-number / 6)),
            layer_bits=bits, mean_bits=float(np.mean(bits)), gavg=[0.5] * 4, underflow_share=[0.1] * 4, clip_share=[0.0] * 4,
            macs=int(4e8 * factor), energy_j=energy * factor, energy_compute_j=energy * factor * 0.5,
            energy_movement_j=energy * factor * 0.3, energy_radio_j=energy * factor * 0.2, energy_linear_j=energy * factor,
            energy_horowitz_j=energy * factor * 0.8, energy_operands_j=energy * factor * 9,
            energy_bitops_j=energy * factor * 0.6, time_s=seconds * factor,
            time_compute_s=seconds * factor * 0.8, time_movement_s=0.0, time_radio_s=seconds * factor * 0.2,
            downlink_bytes=size, uplink_bytes=size, memory_bytes=int(peak * np.mean(bits) / 8), memory_container_bytes=peak,
        )  # fmt: skip

    def record(self, number: int) -> RoundRecord:
        """Return what one round achieved."""
        rows, updates = self.rows(number), [row for row in self.rows(number) if row.status == "ok"]
        accuracy = 0.93 - 0.83 * float(np.exp(-number / 5)) + 0.01 * float(np.sin(number * 2.1))
        wish = {layer: min(16, 6 + (number * (index + 2)) // 12) for index, layer in enumerate(LAYERS)}
        bits = float(np.mean([row.mean_bits for row in updates])) if updates else None
        return RoundRecord(
            number, accuracy, 2.3 * (1 - accuracy) + 0.05, updates[0].train_loss if updates else None, bits, wish,
            self.cohort, len(updates), len({row.client for row in rows}) - len(updates), 0, sum(row.energy_j for row in rows),
            max(row.time_s for row in rows), 10.0 * (number + 1), sum(row.downlink_bytes for row in rows),
            sum(row.uplink_bytes for row in rows), max(row.memory_bytes for row in rows), 2.4,
        )  # fmt: skip

    def clients(self) -> list[ClientRecord]:
        """Return the clients at the end; one of them has nothing held out."""
        draw = numpy_stream(0, "example-clients")
        spread = np.clip(draw.beta(9, 1.5, self.count), 0, 1)
        return [
            ClientRecord(
                client, self.odd + GROUPS[self.group_of[client]][0], GROUPS[self.group_of[client]][0], 300, 30 if client else 0,
                2, float(accuracy) if client else None, 9.5, 4.0, "ok", "",
            )
            for client, accuracy in enumerate(spread)
        ]  # fmt: skip

    def summary(self) -> Summary:
        """Return the run's summary."""
        totals = Totals()
        for number in range(self.rounds):
            totals.add(self.rows(number))
        return totals.summarise([self.record(number) for number in range(self.rounds)], self.clients())

    def write(self, root: Path, finish: bool = True) -> Path:
        """Write the run folder, without its end if `finish` is false; return its path."""
        folder = RunFolder.create(root, "noniid")
        scenario = SCENARIO.format(rounds=self.rounds, count=self.count, cohort=self.cohort)
        folder.write_start(f"# {self.odd}\n{scenario}", environment())
        for number in range(self.rounds):
            folder.commit_round(self.record(number), self.rows(number), {})
        if finish:
            folder.finish({"dense.weight": np.ones((10, 784), np.float32)}, self.clients(), self.summary())
            if self.rounds:
                folder.complete()
        return folder.path

    def play(self, display: Display, path: Path, pause_s: float = 0.0) -> None:
        """Show the run in the terminal as `fedapt run` does."""
        with display:
            display.start(
                path, self.rounds, ["noniid", f"{self.count} clients, {self.cohort} a round", "cnn on strokes", "apt", "fedavg"]
            )
            for number in range(self.rounds):
                display.round_started(number, self.cohort)
                for _ in range(self.cohort):
                    display.client_done()
                    time.sleep(pause_s / self.cohort)
                if number == 2:
                    display.warning("a worker died; its client is run again")
                display.round_done(self.record(number))
            display.finish(self.summary(), path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--show", type=float, help="seconds a round")
    parser.add_argument("--odd", default="")
    options = parser.parse_args()
    example = Example(odd=options.odd)
    made = example.write(options.root)
    write_report(made)
    if options.show is None:
        print(made)
    else:
        example.play(Display(), made, options.show)
