"""What a strategy of fedapt's does with replies that cannot be used, in an app where nobody else has checked them."""

import logging
import re

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedapt.errors import RunFailed
from fedapt.grid.flower import TRAIN, instruction
from fedapt.strategies import STRATEGIES
from tests.strategies.rounds import Cohort, Sent, addressed, record, replies, reply

MODEL = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.float32)}
GOOD = {"a": np.ones((2, 2), np.float32), "b": np.ones(3, np.float32)}


def mean_of(*more, model=MODEL):
    strategy = STRATEGIES["precision_weighted"]().build()
    addressed(strategy, model, range(5))
    return strategy.aggregate_train(1, [reply(0, GOOD, {"num-examples": 2, "loss": 1.0}), *more])


@pytest.mark.parametrize(
    ("arrays", "metrics", "complaint"),
    [
        (GOOD | {"a": np.full((2, 2), np.nan, np.float32)}, {}, "a is not made of finite numbers"),
        (GOOD | {"b": np.ones(1, np.float32)}, {}, r"b has the shape \(1,\); expected \(3,\)"),
        ({"a": GOOD["a"]}, {}, "its arrays are a; expected a, b"),
        (GOOD, {"num-examples": 0}, "its metric `num-examples` is 0; expected a number above 0"),
        (GOOD, {"num-examples": -4}, "its metric `num-examples` is -4"),
        (GOOD, {"num-examples": float("inf")}, "its metric `num-examples` is inf"),
        (GOOD, {"train_loss": float("nan")}, "its metric `train_loss` is nan"),
    ],
)
def test_a_reply_that_cannot_be_used_is_left_out_with_a_sentence(arrays, metrics, complaint, caplog):
    bad = reply(3, {name: 7 * values for name, values in arrays.items()}, {"num-examples": 9, "loss": 5.0} | metrics)
    with caplog.at_level(logging.WARNING, "fedapt"):
        made, said = mean_of(bad)
    assert all((array.numpy() == 1).all() for array in made.values()) and said["loss"] == 1.0
    (sentence,) = caplog.messages
    assert sentence.startswith("the reply of client 3 is left out: ")
    assert re.search(complaint, sentence)


def test_a_client_that_failed_is_named(caplog):
    failed = Message(error=Error(code=0, reason="out of memory"), reply_to=instruction(RecordDict(), TRAIN, 4))
    with caplog.at_level(logging.WARNING, "fedapt"):
        mean_of(failed)
    assert caplog.messages == ["client 4 failed: out of memory"]


def test_a_client_that_answers_twice_has_no_voice(caplog):
    with caplog.at_level(logging.WARNING, "fedapt"):
        made, _ = mean_of(*(reply(2, {name: 5 * values for name, values in GOOD.items()}, {"num-examples": 1}) for _ in range(2)))
    assert made["b"].numpy().tolist() == [1.0] * 3
    assert caplog.messages == ["client 2 answered 2 times in one round and is left out"]


def test_the_model_keeps_its_dtypes():
    model = {"a": np.zeros((2, 2), np.float16), "b": np.array([0, 1, 2])}
    strategy = STRATEGIES["median"]().build()
    addressed(strategy, model, [0, 1])
    sent = [Sent(0, {"a": [[1, 2], [3, 4]], "b": [1, 1, 1]}), Sent(1, {"a": [[1, 2], [3, 4]], "b": [1, 2, 4]})]
    made, _ = strategy.aggregate_train(1, replies(model, sent))
    assert made["a"].dtype == "float16" and made["b"].dtype == str(model["b"].dtype)
    # Whole numbers are rounded: 2.5 to the even one.
    assert made["b"].numpy().tolist() == [1, 2, 4]


def test_without_a_model_there_is_nothing_to_add_to():
    with pytest.raises(RunFailed, match="median does not know the model: call configure_train before aggregate_train"):
        STRATEGIES["median"]().build().aggregate_train(1, [reply(0, GOOD, {"num-examples": 1})])


def test_a_config_of_the_apps_own_reaches_the_clients():
    strategy = STRATEGIES["feddyn"]().build()
    config = ConfigRecord({"lr": 0.3})
    (message,) = strategy.configure_train(4, record(MODEL), config, Cohort([7]))
    assert dict(message.content["config"]) == {"lr": 0.3, "proximal-mu": 0.1, "server-round": 4} and dict(config) == {"lr": 0.3}
