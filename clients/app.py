"""The Flower ClientApp: it hands fedapt's messages to a `Client`, the same in a simulation and on a board."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedapt.clients.client import Client
from fedapt.errors import DamagedData

RECORD = "fedapt"


def client_app(client_of: Callable[[Context], Client], training_mods: Sequence[Mod] = ()) -> ClientApp:
    """Build the app; `client_of` finds the client that a node is, by `context.node_config`.

    training_mods: Flower mods around the training, the first one outermost.

    What a client keeps between rounds is in the state of its context, so it stays on its node.

    Asked with a query, a node answers with the number of its client.
    """
    app = ClientApp()

    @app.train(mods=list(training_mods))
    def train(message: Message, context: Context) -> Message:
        client = client_of(context)
        client.keeps.update({name: torch.from_numpy(values) for name, values in kept_in(context).items()})
        data = client.train(payload(message))
        keep(context, {name: values.numpy() for name, values in client.keeps.items()})
        return answer(message, data)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, client_of(context).evaluate(payload(message)))

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return answer(message, str(context.node_config["partition-id"]).encode())

    return app


def keep(context: Context, arrays: Mapping[str, np.ndarray]) -> None:
    """Put what a client keeps between its rounds into the state of its context."""
    if arrays:
        context.state[RECORD] = ArrayRecord({name: Array(values) for name, values in arrays.items()})


def kept_in(context: Context) -> dict[str, np.ndarray]:
    """Return what `keep` has put there, as arrays that may be written to."""
    return {name: array.numpy().copy() for name, array in context.state.array_records.get(RECORD, ArrayRecord()).items()}


def record(data: bytes) -> RecordDict:
    """Wrap bytes as the content of a Flower message."""
    return RecordDict({RECORD: ConfigRecord({"message": data})})


def payload(message: Message) -> bytes:
    """Return the bytes in a Flower message; raises DamagedData if it is none of fedapt's."""
    data = message.content.config_records.get(RECORD, ConfigRecord()).get("message")
    if not isinstance(data, bytes):
        raise DamagedData(f"expected a record `{RECORD}` with bytes, got {list(message.content)}: the other side is not fedapt's")
    return data


def answer(message: Message, data: bytes) -> Message:
    """Reply to a Flower message with bytes."""
    return Message(content=record(data), reply_to=message)
