"""A plain Flower app without anything of fedapt but the strategy: eight clients fit lines to data that differ, in numpy."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fedapt.grid.flower import context_of, instruction
from fedapt.seeding import numpy_stream

CLIENTS, ROWS, WEIGHTS = 8, 30, 5


def make_data(spread):
    """Return each client's inputs and targets; spread: how far the clients' own optima are apart."""
    rng = numpy_stream(3, "test")
    common, data = rng.normal(size=WEIGHTS) + 2, []
    for _ in range(CLIENTS):
        inputs = rng.normal(size=(ROWS, WEIGHTS)) * rng.uniform(0.5, 1.5, WEIGHTS)
        data.append((inputs, inputs @ (common + spread * rng.normal(size=WEIGHTS))))
    return data


def loss_of(data, w):
    return float(np.mean([np.square(inputs @ w - targets).mean() / 2 for inputs, targets in data]))


def optimum_of(data):
    inputs, targets = (np.concatenate(parts) for parts in zip(*data, strict=True))
    return np.linalg.lstsq(inputs, targets, rcond=None)[0]


def client_app(data, steps, lr):
    """Return an app that takes steps(client) full gradient steps, and does as SCAFFOLD, FedDyn and FedProx tell it."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        client = context.node_config["partition-id"]
        inputs, targets = data[client]
        start = message.content["arrays"]["w"].numpy().astype(np.float64)
        correction = message.content["correction"]["w"].numpy() if "correction" in message.content else 0.0
        mu, w, losses = message.content["config"].get("proximal-mu", 0.0), start.copy(), []
        for _ in range(steps(client)):
            error = inputs @ w - targets
            losses.append(np.square(error).mean() / 2)
            w -= lr * (inputs.T @ error / ROWS + correction + mu * (w - start))
        said = {"num-examples": ROWS, "train_loss": float(np.mean(losses)), "steps": steps(client), "lr": lr}
        said |= {"mean_bits": 32.0, "update_variance": 0.0, "relative_error": 0.0}
        content = RecordDict({"arrays": ArrayRecord({"w": Array(w.astype(np.float32))}), "metrics": MetricRecord(said)})
        return Message(content=content, reply_to=message)

    return app


class InProcess(Grid):
    """Flower's Grid, with every node in this process. liars: nodes whose update is replaced, by what of it."""

    def __init__(self, app, nodes=CLIENTS, liars=None):
        self.app, self.nodes, self.liars = app, nodes, liars or {}

    def get_node_ids(self):
        return list(range(self.nodes))

    def send_and_receive(self, messages, *, timeout=None):
        return [self._answer(message) for message in messages if message.metadata.message_type == "train"]

    def _answer(self, message):
        node = message.metadata.dst_node_id
        reply = self.app(message, context_of(node))
        if node in self.liars:
            start = message.content["arrays"]["w"].numpy()
            lie = start + self.liars[node](reply.content["arrays"]["w"].numpy() - start)
            reply.content["arrays"] = ArrayRecord({"w": Array(lie.astype(np.float32))})
        return reply

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return instruction(content, message_type, dst_node_id)

    def push_messages(self, messages):
        raise NotImplementedError

    def pull_messages(self, message_ids):
        raise NotImplementedError

    def set_run(self, run):
        raise NotImplementedError

    @property
    def run(self):
        raise NotImplementedError


def fit(options, data, rounds, steps=lambda client: 5, liars=None, lr=0.05):
    """Return the weights after Flower's own loop has run."""
    start = ArrayRecord({"w": Array(np.zeros(WEIGHTS, np.float32))})
    grid = InProcess(client_app(data, steps, lr), liars=liars)
    strategy = options.build(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=CLIENTS)
    return strategy.start(grid, start, num_rounds=rounds).arrays["w"].numpy().astype(np.float64)
