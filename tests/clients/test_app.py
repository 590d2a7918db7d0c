"""fedapt.clients.app: the Flower ClientApp hands bytes to a client and answers with bytes."""

import pytest
from flwr.app import ConfigRecord, RecordDict

from fedapt.clients.app import answer, client_app, payload, record
from fedapt.errors import DamagedData
from fedapt.grid.flower import EVALUATE, TRAIN, context_of, identify_process, instruction
from fedapt.quant.wire import from_bytes
from tests.clients.conftest import client, dense, message

identify_process()


@pytest.fixture
def app():
    """Node n has n samples, and 40 - n to evaluate on."""
    return client_app(lambda context: client(dense, range(context.node_config["partition-id"]), held_out=[1, 2]))


def sent(kind, data, node=5):
    return instruction(record(data), kind, node)


def test_a_train_message_is_answered_with_the_bytes_of_that_nodes_client(app):
    reply = app(sent(TRAIN, message(dense)), context_of(5))
    assert payload(reply) == client(dense, range(5)).train(message(dense))
    assert from_bytes(payload(reply))[1]["report"]["samples"] == 5
    other = app(sent(TRAIN, message(dense)), context_of(6))
    assert from_bytes(payload(other))[1]["report"]["samples"] == 6


def test_an_evaluate_message_is_answered_with_a_report_alone(app):
    reply = app(sent(EVALUATE, message(dense)), context_of(5))
    assert from_bytes(payload(reply))[1]["report"].keys() == {"kind", "samples", "correct", "loss"}


def test_the_answer_goes_back_to_the_sender(app):
    question = sent(TRAIN, message(dense))
    reply = app(question, context_of(5))
    assert reply.metadata.dst_node_id == question.metadata.src_node_id
    assert reply.metadata.message_type == TRAIN and not reply.has_error()


@pytest.mark.parametrize("data", [b"", b"\0\xff", bytes(range(256)) * 9])
def test_bytes_survive_a_flower_message_and_its_answer(data):
    question = sent(TRAIN, data)
    assert payload(question) == data == payload(answer(question, data))


def test_a_damaged_message_raises_its_sentence_for_the_transport_to_report(app):
    with pytest.raises(DamagedData, match="the message is not one of fedapt's"):
        app(sent(TRAIN, b"noise"), context_of(5))


def test_a_record_holds_nothing_but_the_message():
    assert record(b"x") == RecordDict({"fedapt": ConfigRecord({"message": b"x"})})
