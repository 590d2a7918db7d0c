"""Strategies from outside the project: good ones, and many that misbehave from round `since` on (rounds count from 1)."""

import sys

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, Strategy
from pydantic import Field

from fedapt.strategies.strategy import StrategyOptions


class Good(FedAvg):
    """Moves a share of the way to the mean, and counts its rounds."""

    def __init__(self, share: float = 1.0, layers: tuple[str, ...] = (), **kwargs):
        super().__init__(**kwargs)
        self.share, self.layers, self.rounds, self.before = share, layers, 0, {}

    def configure_train(self, server_round, arrays, config, grid):
        self.before = {name: array.numpy() for name, array in arrays.items()}
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):
        self.rounds += 1
        mean, metrics = super().aggregate_train(server_round, replies)
        moved = {name: self.before[name] + self.share * (array.numpy() - self.before[name]) for name, array in mean.items()}
        return ArrayRecord({name: Array(values.astype(np.float32)) for name, values in moved.items()}), metrics


class GoodOptions(StrategyOptions):
    """Options that build a strategy and say what it needs."""

    kind: str = "good"
    wanted: int = Field(default=3, ge=1)
    linear = True

    @property
    def least_updates(self):
        return self.wanted

    def build(self):
        return FedAvg(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)


class Bad(FedAvg):
    """Behaves until round `since`, then returns what `spoil` makes of the mean."""

    def __init__(self, since: int = 1):
        super().__init__()
        self.since = since

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        return self.spoil(arrays, metrics, replies) if server_round >= self.since else (arrays, metrics)

    def spoil(self, arrays, metrics, replies):
        return arrays, metrics


def changed(arrays, change):
    return ArrayRecord({name: Array(change(array.numpy())) for name, array in arrays.items()})


class NaN(Bad):
    def spoil(self, arrays, metrics, replies):
        return changed(arrays, lambda values: values * np.float32(np.nan)), metrics


class Huge(Bad):
    def spoil(self, arrays, metrics, replies):
        return changed(arrays, lambda values: values.astype(np.float64) + 1e300), metrics


class Raises(Bad):
    def spoil(self, arrays, metrics, replies):
        raise KeyError("conv1\x1b[31m\nred")


class Unspeakable(Bad):
    def spoil(self, arrays, metrics, replies):
        class Mute(Exception):
            def __str__(self):
                raise ValueError

        raise Mute


class Exits(Bad):
    def spoil(self, arrays, metrics, replies):
        sys.exit(0)


class Interrupts(Bad):
    def spoil(self, arrays, metrics, replies):
        raise KeyboardInterrupt


class Shapes(Bad):
    def spoil(self, arrays, metrics, replies):
        return changed(arrays, lambda values: values.reshape(-1)[:1]), metrics


class Missing(Bad):
    def spoil(self, arrays, metrics, replies):
        arrays.pop(next(iter(arrays)))
        return arrays, metrics


class Extra(Bad):
    def spoil(self, arrays, metrics, replies):
        arrays["more"] = Array(np.zeros(3, np.float32))
        return arrays, metrics


class Integers(Bad):
    def spoil(self, arrays, metrics, replies):
        return changed(arrays, lambda values: values.astype(np.int64)), metrics


class Objects(Bad):
    def spoil(self, arrays, metrics, replies):
        return changed(arrays, lambda values: values.astype(object)), metrics


class Nothing(Bad):
    def spoil(self, arrays, metrics, replies):
        return None


class NoModel(Bad):
    def spoil(self, arrays, metrics, replies):
        return None, metrics


class NoPair(Bad):
    def spoil(self, arrays, metrics, replies):
        return arrays


class PlainDict(Bad):
    def spoil(self, arrays, metrics, replies):
        return {name: array.numpy() for name, array in arrays.items()}, metrics


class Constructor(FedAvg):
    def __init__(self, since: int = 1):
        raise OSError("no licence found")


class ConfiguresBadly(Bad):
    def configure_train(self, server_round, arrays, config, grid):
        if server_round < self.since:
            return super().configure_train(server_round, arrays, config, grid)
        return self.messages(server_round, arrays, config, grid)

    def messages(self, server_round, arrays, config, grid):
        raise AttributeError("no such thing")


def train(arrays, client, kind="train"):
    return Message(content=RecordDict({"arrays": arrays}), dst_node_id=client, message_type=kind)


class AsksStrangers(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        return [train(arrays, 10**6)]


class AsksTwice(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        return [train(arrays, client) for client in grid.get_node_ids() * 2]


class OtherModel(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        other = changed(arrays, lambda values: np.zeros((2, 2), np.float32))
        return [train(other, client) for client in grid.get_node_ids()]


class Doubles(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        other = changed(arrays, lambda values: values.astype(np.float64))
        return [train(other, client) for client in grid.get_node_ids()]


class NoMessages(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        return None


class NotMessages(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        return grid.get_node_ids()


class OtherType(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        return [train(arrays, client, "evaluate") for client in grid.get_node_ids()]


class Empty(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        return [Message(content=RecordDict(), dst_node_id=client, message_type="train") for client in grid.get_node_ids()]


class SendsItself(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        return grid.send_and_receive([train(arrays, client) for client in grid.get_node_ids()])


class LateGenerator(ConfiguresBadly):
    def messages(self, server_round, arrays, config, grid):
        yield train(arrays, grid.get_node_ids()[0])
        raise LookupError("out of clients")


class EvaluatesBadly(Bad):
    def configure_evaluate(self, server_round, arrays, config, grid):
        raise ZeroDivisionError("nobody")


class SumsUpBadly(Bad):
    def aggregate_evaluate(self, server_round, replies):
        raise IndexError("no metrics")


class BadState(Bad):
    def state_dict(self):
        raise RuntimeError("no state")

    def load_state_dict(self, state):
        pass


class Vandal(Bad):
    """Changes everything that it is given, and what it has given."""

    def configure_train(self, server_round, arrays, config, grid):
        messages = super().configure_train(server_round, arrays, config, grid)
        grid.get_node_ids().clear()
        if hasattr(self, "kept"):
            self.wipe(self.kept)
        return messages

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.kept = arrays
        for reply in replies:
            self.wipe(reply.content["arrays"])
        replies.clear()
        return arrays, metrics

    def wipe(self, record):
        for name, array in list(record.items()):
            array.numpy()[...] = np.nan
            record[name] = Array(np.zeros_like(array.numpy()))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Needy(FedAvg):
    def __init__(self, model: Strategy):
        super().__init__()


class Abstract(Strategy):
    def summary(self):
        pass


NOT_A_CLASS = 3
