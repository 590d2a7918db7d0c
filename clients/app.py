"""The Flower ClientApp: it hands fedapt's messages to a `Client`, the same in a simulation and on a board."""

from __future__ import annotations

from collections.abc import Callable

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedapt.clients.client import Client

RECORD = "fedapt"


def client_app(client_of: Callable[[Context], Client]) -> ClientApp:
    """Build the app; `client_of` finds the client that a node is, by `context.node_config`."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, client_of(context).train(payload(message)))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, client_of(context).evaluate(payload(message)))

    return app


def record(data: bytes) -> RecordDict:
    """Wrap bytes as the content of a Flower message."""
    return RecordDict({RECORD: ConfigRecord({"message": data})})


def payload(message: Message) -> bytes:
    """Return the bytes in a Flower message."""
    data = message.content.config_records[RECORD]["message"]
    assert isinstance(data, bytes)
    return data


def answer(message: Message, data: bytes) -> Message:
    """Reply to a Flower message with bytes."""
    return Message(content=record(data), reply_to=message)
