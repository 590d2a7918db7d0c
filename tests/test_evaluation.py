"""Evaluation of the global model: batches are shared among threads, and what comes of it does not depend on how many."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedapt import evaluation
from fedapt.data import load
from fedapt.evaluation import BATCH, Evaluator
from fedapt.models import build
from fedapt.quant.skeleton import float_arrays
from tests.grid.conftest import scenario

WANTED = scenario()
FEDERATION = load(WANTED.data, WANTED.clients.count, WANTED.seed)


def weights(seed):
    return {name: values.numpy() for name, values in float_arrays(build(WANTED.model, FEDERATION.data_shape, seed)).items()}


def evaluator(**options):
    return Evaluator(WANTED.model, FEDERATION.test, FEDERATION.classes, 1, **options)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_score_is_that_of_all_samples_at_once(channels_last):
    arrays, model = weights(3), build(WANTED.model, FEDERATION.data_shape, 3).eval()
    inputs, labels = FEDERATION.test.batch(np.arange(len(FEDERATION.test.labels)))
    with torch.no_grad():
        logits = model(inputs).double()
    score = evaluator(channels_last=channels_last).score(arrays)
    assert len(labels) > 2 * BATCH and len(labels) % BATCH
    assert score.accuracy == float((logits.argmax(1) == labels).double().mean())
    assert score.loss == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)


def test_any_number_of_cores_gives_the_same_bits(monkeypatch):
    scores = set()
    for cores in (1, 2, 3, 64):
        monkeypatch.setattr(evaluation, "usable_cores", lambda cores=cores: cores)
        scores.add(evaluator().score(weights(1)))
    assert len(scores) == 1


def test_a_model_that_fails_is_an_error_and_threads_are_as_they_were(monkeypatch):
    one, before = evaluator(), torch.get_num_threads()
    monkeypatch.setattr(F, "cross_entropy", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one.score(weights(0))
    assert torch.get_num_threads() == before


def test_the_second_score_is_of_the_second_model():
    one = evaluator()
    first, second = one.score(weights(1)), one.score(weights(2))
    assert first != second and one.score(weights(1)) == first


def test_threads_share_weights_and_nothing_that_a_layer_may_note(monkeypatch):
    monkeypatch.setattr(evaluation, "usable_cores", lambda: 2)
    one, other = evaluator()._models
    assert one is not other and one.conv1 is not other.conv1 and one.conv1.weight is other.conv1.weight
