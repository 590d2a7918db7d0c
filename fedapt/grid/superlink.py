"""The `superlink` transport: clients are Flower SuperNodes, processes or boards, that a SuperLink knows.

Flower gives its nodes random numbers, so each one is asked once which client it is.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedapt.clients.app import payload, record
from fedapt.errors import DamagedData
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import QUERY, instruction, why_failed
from fedapt.grid.visit import Arrays, Outcome, Task, down, receive
from fedapt.quant.wire import QuantisedModel

POLL_S = 0.2
Key = TypeVar("Key", bound=Hashable)


class SuperLink:
    """Talks to clients through the Grid that a ServerApp is given.

    answer_s: how long the rest of a cohort may be silent after the last answer; join_s: how long to wait for clients of which
    no node is known yet.
    """

    def __init__(self, grid: Grid, *, answer_s: float = 600.0, join_s: float = 60.0) -> None:
        self._grid, self._answer_s, self._join_s = grid, answer_s, join_s
        self._node_of: dict[int, int] = {}
        self._asked: set[int] = set()
        self._excuses: list[str] = []

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield one outcome for each task as answers arrive; with `total`, updates are added to it and not returned."""
        self._find({task.client for task in tasks})
        sent: dict[int, tuple[Task, QuantisedModel, bytes]] = {}
        messages: dict[int, Message] = {}
        for task in tasks:
            if task.client not in self._node_of:
                yield Outcome(task.client, "failed", self._absence(task.client))
                continue
            start, message = down(arrays, task)
            sent[task.client] = task, start, message
            messages[task.client] = instruction(record(message), task.kind, self._node_of[task.client])
        for client, reply in self._answers(messages):
            task, start, message = sent[client]
            yield self._outcome(arrays, task, start, message, reply, total)

    def _outcome(
        self, arrays: Arrays, task: Task, start: QuantisedModel, message: bytes, reply: Message | None, total: ExactSum | None
    ) -> Outcome:
        if reply is None:
            reason = f"it did not answer within {self._answer_s:g} s"
            return Outcome(task.client, "failed", reason, downlink_bytes=len(message))
        if reply.has_error():
            return Outcome(task.client, "failed", why_failed(reply), downlink_bytes=len(message))
        try:
            return receive(arrays, start, task, message, payload(reply), total)
        except DamagedData as error:
            return Outcome(task.client, "rejected", str(error), downlink_bytes=len(message))

    def _find(self, clients: Iterable[int]) -> None:
        """Ask nodes which client they are until these clients are found, or `join_s` has passed."""
        deadline = time.monotonic() + self._join_s
        while set(clients) - self._node_of.keys() and time.monotonic() < deadline:
            new = set(self._grid.get_node_ids()) - self._asked
            self._asked |= new
            for node, reply in self._answers({node: instruction(RecordDict(), QUERY, node) for node in new}):
                if reply is not None and not reply.has_error():
                    self._node_of[int(payload(reply))] = node
                else:
                    self._excuses.append(why_failed(reply) if reply else "it did not answer")
            if not new:
                time.sleep(POLL_S)

    def _absence(self, client: int) -> str:
        said = f"; a node that was asked failed: {self._excuses[-1]}" if self._excuses else ""
        return f"no SuperNode has partition-id={client} in its --node-config{said}"

    def _answers(self, messages: Mapping[Key, Message]) -> Iterator[tuple[Key, Message | None]]:
        """Send messages and yield the reply to each one as it arrives, None for those without."""
        pushed = list(self._grid.push_messages(list(messages.values())))
        key_of = {name: key for name, key in zip(pushed, messages, strict=False) if name}
        missing = dict.fromkeys(messages)
        deadline = time.monotonic() + self._answer_s
        while key_of and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(key_of)):
                key = key_of.pop(reply.metadata.reply_to_message_id)
                del missing[key]
                deadline = time.monotonic() + self._answer_s
                yield key, reply
            if key_of:
                time.sleep(POLL_S)
        for key in missing:
            yield key, None

    def close(self) -> None:
        """There is nothing to stop: the SuperLink and its nodes are not this transport's."""
