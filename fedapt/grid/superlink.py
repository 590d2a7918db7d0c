"""The `superlink` transport: clients are Flower SuperNodes, processes or boards, that a SuperLink knows.

Flower gives its nodes random numbers, so each one is asked once which client it is.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedapt.clients.app import payload, record
from fedapt.errors import FedaptError, RunFailed
from fedapt.grid.exact_sum import ExactSum
from fedapt.grid.flower import QUERY, instruction, why_failed
from fedapt.grid.visit import Arrays, Outcome, Task, down, receive_answer
from fedapt.quant.wire import QuantisedModel

POLL_S = 0.2
NOT_ACCEPTED = "the SuperLink did not accept the message to it"
Key = TypeVar("Key", bound=Hashable)


class SuperLink:
    """Talks to clients through the Grid that a ServerApp is given.

    answer_s: how long all clients that have not answered yet may stay silent; join_s: how long to wait for clients that no
    known node is. ignored: counts answers that came again, after their time, or unasked.
    """

    def __init__(self, grid: Grid, *, answer_s: float = 600.0, join_s: float = 60.0) -> None:
        self._grid, self._answer_s, self._join_s = grid, answer_s, join_s
        self._node_of: dict[int, int] = {}
        self._asked: set[int] = set()
        self._excuses: list[str] = []
        self._overdue: set[str] = set()
        self.ignored = Counter[str]()
        self._log = logging.getLogger(__name__)

    def exchange(self, arrays: Arrays, tasks: Sequence[Task], total: ExactSum | None) -> Iterator[Outcome]:
        """Yield one outcome for each task as answers arrive; with `total`, updates are added to it and not returned.

        A client that stays silent has the message and may have trained, so it is charged with what it was told to do.
        Raises RunFailed if two nodes say that they are the same client.
        """
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
        for client, answer in self._answers(messages):
            task, start, message = sent[client]
            if isinstance(answer, Message):
                yield receive_answer(arrays, start, task, message, answer, total)
            elif answer == NOT_ACCEPTED:
                yield Outcome(client, "failed", answer)
            else:
                yield Outcome(client, "failed", answer, downlink_bytes=len(message), spent=task.planned)

    def _find(self, clients: Iterable[int]) -> None:
        """Ask nodes which client they are until these clients are found, or `join_s` has passed."""
        deadline = time.monotonic() + self._join_s
        while set(clients) - self._node_of.keys() and time.monotonic() < deadline:
            new = set(self._grid.get_node_ids()) - self._asked
            self._asked |= new
            for node, answer in self._answers({node: instruction(RecordDict(), QUERY, node) for node in new}):
                try:
                    client = int(_content(answer))
                except (FedaptError, ValueError) as error:
                    self._excuses.append(str(error))
                    continue
                if self._node_of.setdefault(client, node) != node:
                    raise RunFailed(f"two SuperNodes have partition-id={client} in their --node-config; give each its own")
            if not new:
                time.sleep(POLL_S)

    def _absence(self, client: int) -> str:
        asked = f"; a node that was asked failed: {self._excuses[-1]}" if self._excuses else ""
        return f"no SuperNode has partition-id={client} in its --node-config{asked}"

    def _answers(self, messages: Mapping[Key, Message]) -> Iterator[tuple[Key, Message | str]]:
        """Send messages and yield the reply to each one as it arrives, or at last why there is none."""
        pushed = list(self._grid.push_messages(list(messages.values()))) if messages else []
        key_of = {name: key for name, key in zip(pushed, messages, strict=False) if name}
        refused = messages.keys() - key_of.values()
        deadline = time.monotonic() + self._answer_s
        while key_of and time.monotonic() < deadline:
            for reply in self._grid.pull_messages([*key_of, *self._overdue]):
                name = reply.metadata.reply_to_message_id
                if name not in key_of:
                    self._ignore(reply, "repeated" if name in pushed else "late" if name in self._overdue else "unasked")
                    continue
                deadline = time.monotonic() + self._answer_s
                yield key_of.pop(name), reply
            if key_of:
                time.sleep(POLL_S)
        self._overdue |= key_of.keys()
        for key in key_of.values():
            yield key, f"it did not answer within {self._answer_s:g} s"
        for key in refused:
            yield key, NOT_ACCEPTED

    def _ignore(self, reply: Message, what: str) -> None:
        """Count an answer that changes nothing; of one that is overdue, Flower at last says that it has expired."""
        self._overdue.discard(reply.metadata.reply_to_message_id)
        if not (what == "late" and reply.has_error()):
            self.ignored[what] += 1
            self._log.info("ignored a %s answer of node %d", what, reply.metadata.src_node_id)

    def close(self) -> None:
        """There is nothing to stop: the SuperLink and its nodes are not this transport's."""


def _content(answer: Message | str) -> bytes:
    """Return the bytes of an answer; raises RunFailed if the node could not answer, DamagedData if it did so wrongly."""
    if isinstance(answer, str):
        raise RunFailed(answer)
    if answer.has_error():
        raise RunFailed(why_failed(answer))
    return payload(answer)
