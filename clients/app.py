"""The Flower ClientApp: it hands fedapt's messages to a `Client`, the same in a simulation and on a board."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from fedapt.clients.client import Client
from fedapt.errors import DamagedData

RECORD = "fedapt"


def client_app(client_of: Callable[[Context], Client], training_mods: Sequence[Mod] = ()) -> ClientApp:
    """Build the app; `client_of` finds the client that a node is, by `context.node_config`.

    training_mods: Flower mods around the training, the first one outermost.

    Asked with a query, a node answers with the number of its client.
    """
    app = ClientApp()

    @app.train(mods=list(training_mods))
    def train(message: Message, context: Context) -> Message:
        return answer(message, client_of(context).train(payload(message)))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, client_of(context).evaluate(payload(message)))

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return answer(message, str(context.node_config["partition-id"]).encode())

    return app


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
