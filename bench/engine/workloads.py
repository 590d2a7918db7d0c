"""What the contestants do: the model, the clients and their local work, each a line of the table."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Workload:
    """One piece of federated training, the same for every contestant.

    samples: of each client; epochs 0: clients send back the model that they got, and all that is measured is the engine.
    rounds: so many that the second half of them is in a steady state; the last may hold what a contestant does at its end.
    lost: accuracy, in points beside the floor's, that a contestant may be off before it counts as doing other work.
    scale: belongs to the table of how time and memory grow, which fedapt alone plays.
    """

    name: str
    about: str
    data: str
    model: str
    hidden: tuple[int, ...] = ()
    clients: int = 200
    cohort: int = 200
    samples: int = 100
    batch: int = 20
    epochs: int = 1
    lr: float = 0.05
    rounds: int = 6
    lost: float = 1.0
    scale: bool = False

    @property
    def steps(self) -> int:
        """The steps of a client in a round."""
        return self.epochs * -(-self.samples // self.batch)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "logistic regression 784-10", "fashion_mnist", "mlp", clients=1000, cohort=1000, samples=40, rounds=12),
        Workload("W2", "MLP 784-64-10", "fashion_mnist", "mlp", (64,), rounds=50),
        Workload("W3", "CNN, 2 conv + 2 dense, 47 k weights", "fashion_mnist", "cnn", rounds=8),
        Workload("W4", "pfl's CIFAR CNN, 1.6 M weights", "cifar10", "pfl-cnn", cohort=50, samples=50, batch=10, lr=0.1),
        Workload("W5", "no-op client, 4 MB model", "fashion_mnist", "mlp", (1260,), 100, 100, 20, epochs=0, rounds=28),
        Workload("S100", "100 clients, 100 a round", "fashion_mnist", "mlp", (64,), 100, 100, 6, 6, rounds=400, scale=True),
        Workload("S10", "10,000 clients, 10 a round", "fashion_mnist", "mlp", (64,), 10_000, 10, 6, 6, rounds=400, scale=True),
        Workload(
            "S1000", "10,000 clients, 1,000 a round", "fashion_mnist", "mlp", (64,), 10_000, 1000, 6, 6, rounds=40, scale=True
        ),
    )
}
QUICK_ROUNDS = 4


def shortened(workload: Workload) -> Workload:
    """Return the same work for just as many clients, in fewer rounds."""
    return replace(workload, rounds=min(workload.rounds, QUICK_ROUNDS))
