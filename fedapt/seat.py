"""Where a strategy sits during a run: whatever it raises or hands over that is no use ends the run with one sentence.

A strategy may be anybody's. It is shown the cohort and given records of its own, so that it can change nothing but its answer;
its answer is held against what Flower's interface and the model ask for. The committed rounds stay, and when it is mended the
run goes on from them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedapt.errors import CannotResume, RunFailed
from fedapt.grid.flower import EVALUATE, TRAIN, instruction
from fedapt.grid.reasons import reason_of
from fedapt.record.plain import NotPlain
from fedapt.record.strategy_state import restore, state_of
from fedapt.stopping import Stopped
from fedapt.strategies.strategy import StrategyOptions

Arrays = Mapping[str, np.ndarray]
CORRECTION = "correction"
LONGEST_REASON = 400
MOST_NAMES = 3


class Seat:
    """One strategy for one run. Rounds count from 0 here, and from 1 for Flower; every method raises RunFailed."""

    def __init__(self, options: StrategyOptions) -> None:
        self._options = options
        with self._blaming("cannot be built"):
            self._strategy = options.build()

    def train_messages(self, number: int, model: Arrays, grid: Grid) -> list[Message]:
        """Return whom the strategy sends what to train: each client of the cohort at most once, and models of the right shape."""
        cohort = Cohort(grid)
        with self._blaming("failed", f"round {number}: "):
            messages = self._strategy.configure_train(number + 1, _record(model), ConfigRecord(), cohort)
            return _checked(messages, TRAIN, cohort.get_node_ids(), model)

    def aggregate(self, number: int, replies: Sequence[Message], model: Arrays) -> dict[str, np.ndarray]:
        """Return the next global model, float32 in the names and shapes of `model`."""
        with self._blaming("failed", f"round {number}: "):
            result: Any = self._strategy.aggregate_train(number + 1, list(replies))
            if not isinstance(result, tuple) or len(result) != 2:
                raise ValueError(f"aggregate_train returned {_kind(result)}, expected a pair of an ArrayRecord and metrics")
            if result[0] is None:
                raise ValueError(f"it made no model of {len(replies)} replies")
            return _checked_arrays(result[0], model, "returned", ("float16", "float32", "float64"))

    def evaluation_messages(self, number: int, model: Arrays, grid: Grid) -> list[Message]:
        """Return whom the strategy sends the model to evaluate."""
        cohort = Cohort(grid)
        with self._blaming("failed", f"round {number}: "):
            messages = self._strategy.configure_evaluate(number + 1, _record(model), ConfigRecord(), cohort)
            return _checked(messages, EVALUATE, cohort.get_node_ids(), model)

    def take_evaluations(self, number: int, replies: Sequence[Message]) -> None:
        """Tell the strategy what the clients found."""
        with self._blaming("failed", f"round {number}: "):
            self._strategy.aggregate_evaluate(number + 1, list(replies))

    def state(self) -> dict[str, Any]:
        """Return what the strategy remembers as plain data; raises NotPlain if that is anything else."""
        with self._blaming("cannot say what it remembers"):
            return state_of(self._strategy, self._options.build())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Give the strategy what it remembered; raises CannotResume if it does not take it."""
        try:
            with self._blaming("does not take what it remembered"):
                restore(self._strategy, dict(state))
        except RunFailed as error:
            raise CannotResume(str(error)) from error

    @contextmanager
    def _blaming(self, what: str, when: str = "") -> Iterator[None]:
        """Turn whatever a strategy raises, an exit of Python too, into one sentence; the traceback is in run.log."""
        try:
            yield
        except (Stopped, NotPlain):
            raise
        except BaseException as error:
            said = textwrap.shorten(reason_of(error), LONGEST_REASON, placeholder=" ...").removesuffix(":")
            raise RunFailed(f"{when}the strategy {self._options.kind} {what}: {said}") from error


class Cohort(Grid):
    """What a strategy sees of the Gateway: who is in the round. It asks clients by returning messages, not by sending them."""

    def __init__(self, grid: Grid) -> None:
        self._nodes = list(grid.get_node_ids())

    def get_node_ids(self) -> list[int]:
        """Return the clients of the round in order, in a list of the caller's own."""
        return list(self._nodes)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a message to a client."""
        return instruction(content, message_type, dst_node_id)

    def push_messages(self, messages: Iterable[Message]) -> NoReturn:
        """Refuse: who is asked twice would be charged twice."""
        raise RuntimeError("it sends messages itself; expected them to be returned by configure_train or configure_evaluate")

    def pull_messages(self, message_ids: Iterable[str]) -> NoReturn:
        """Refuse, as push_messages does."""
        self.push_messages(())

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> NoReturn:
        """Refuse, as push_messages does."""
        self.push_messages(())

    def set_run(self, run: object) -> None:
        """Ignore Flower's run: fedapt has its own."""

    @property
    def run(self) -> None:  # type: ignore[override]
        """Flower's run, of which there is none."""
        return None


def _record(model: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(values) for name, values in model.items()})


def _checked(messages: Any, kind: str, cohort: Sequence[int], model: Arrays) -> list[Message]:
    """Return messages as a list; raises ValueError for one that no client of the cohort could be sent."""
    if not isinstance(messages, Iterable):
        raise ValueError(f"configure_{kind} returned {_kind(messages)}, expected messages")
    checked: list[Message] = []
    members, seen = frozenset(cohort), set[int]()
    contents: dict[int, RecordDict] = {}
    for message in messages:
        if not isinstance(message, Message) or not message.has_content():
            raise ValueError(f"configure_{kind} returned {_kind(message)} among its messages, expected a message with content")
        client = message.metadata.dst_node_id
        if client not in members:
            raise ValueError(f"it sends a message to client {client}, who is not in the round's cohort")
        if client in seen:
            raise ValueError(f"it sends more than one message to client {client}")
        if message.metadata.message_type != kind:
            raise ValueError(f"it sends a message of type `{message.metadata.message_type}`, expected `{kind}`")
        if id(message.content) not in contents:
            contents[id(message.content)] = message.content
            _check_content(message.content, model)
        seen.add(client)
        checked.append(message)
    return checked


def _check_content(content: RecordDict, model: Arrays) -> None:
    records = dict(content.array_records)
    if CORRECTION in records:
        _checked_arrays(records.pop(CORRECTION), model, "sends a correction with")
    if not records:
        raise ValueError("it sends a message without a model")
    _checked_arrays(next(iter(records.values())), model, "sends")


def _checked_arrays(record: Any, model: Arrays, does: str, dtypes: Sequence[str] = ("float32",)) -> dict[str, np.ndarray]:
    """Return a record's arrays as float32; raises ValueError if they are not of the model's names and shapes, and finite."""
    if not isinstance(record, ArrayRecord):
        raise ValueError(f"it {does} {_kind(record)}, expected an ArrayRecord")
    if odd := record.keys() ^ model.keys():
        names = ", ".join(sorted(odd)[:MOST_NAMES]) + (", ..." if len(odd) > MOST_NAMES else "")
        raise ValueError(f"it {does} a model with other names ({names} missing or not the model's)")
    arrays: dict[str, np.ndarray] = {}
    for name, expected in model.items():
        values = record[name].numpy()
        if values.dtype.name not in dtypes:
            raise ValueError(f"it {does} {name} as {values.dtype.name}, expected {dtypes[-1] if len(dtypes) == 1 else 'floats'}")
        if values.shape != expected.shape:
            raise ValueError(f"it {does} {name} in the shape {values.shape}, expected {expected.shape}")
        with np.errstate(over="ignore"):
            arrays[name] = np.asarray(values, np.float32)
        if bad := int(np.count_nonzero(~np.isfinite(arrays[name]))):
            raise ValueError(f"it {does} a {name} with {bad} of {values.size} values that are not finite")
    return arrays


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return f"{len(value)} things" if isinstance(value, tuple) else f"a {type(value).__name__}"
