"""The one place that touches Flower's internals, for flwr 1.41; `tests/grid/test_flower.py` is the contract."""

from __future__ import annotations

import logging
import re

from flwr.app import Context, Message, RecordDict, UserConfig
from flwr.supercore.task_identity import TaskIdentity

from fedapt import errors

TRAIN, EVALUATE, QUERY = "train", "evaluate", "query"


def identify_process() -> None:
    """Give this process the identity without which Flower refuses to build a message; keeps one that a SuperLink has given."""
    for name in ("run_id", "task_id", "node_id"):
        if getattr(TaskIdentity, f"_{name}") is None:
            setattr(TaskIdentity, name, 0)
    logging.getLogger("flwr").setLevel(logging.WARNING)


def instruction(content: RecordDict, message_type: str, node_id: int) -> Message:
    """Return a message to a node."""
    return Message(content=content, dst_node_id=node_id, message_type=message_type)


def context_of(client: int, attempt: int = 1) -> Context:
    """Return the context that a simulated node runs in: its partition is the client's number."""
    node_config: UserConfig = {"partition-id": client, "attempt": attempt}
    return Context(run_id=0, node_id=client, node_config=node_config, state=RecordDict(), run_config={})


def why_failed(reply: Message) -> str:
    """Return why a node could not answer; Flower writes a client's exception as `<class 'a.b.Name'>:<'sentence'>`."""
    reason = reply.error.reason or f"Flower's error {reply.error.code}"
    raised = re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>:<'(.*)'>", reason, re.DOTALL)
    if not raised:
        return reason
    name, sentence = raised.groups()
    return sentence if hasattr(errors, name) else f"{name}: {sentence}"
