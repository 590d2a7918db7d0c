"""The committed corpus of the fuzz targets: every input is refused in a sentence or read, here and without atheris."""

import random
from importlib import import_module

import pytest

from fuzz.harness import check_text, corpus
from fuzz.messages import mutate
from fuzz.seeds import seeds

TARGETS = ("codec", "reply", "scenario", "record")
INPUTS = [(target, path) for target in TARGETS for path in corpus(target)]


@pytest.mark.parametrize(("target", "path"), INPUTS, ids=lambda value: getattr(value, "name", value))
def test_a_committed_input_is_read_unless_its_name_says_that_it_is_refused(target, path):
    assert import_module(f"fuzz.{target}").accepts(path.read_bytes()) == (not path.name.startswith("refused"))


@pytest.mark.parametrize("target", TARGETS)
def test_mutated_inputs_are_read_or_refused(target):
    module = import_module(f"fuzz.{target}")
    inputs = [path.read_bytes() for path in corpus(target)]
    results = set()
    for seed in range(60):
        stream = random.Random(seed)
        results.add(module.accepts(module.mutate(stream.choice(inputs), stream)))
    assert results == {True, False}


def test_mutated_messages_get_past_the_digest():
    from fedapt.errors import DamagedData
    from fedapt.quant.wire import from_bytes

    message = seeds()["codec/mixed"]
    sentences = []
    for seed in range(500):
        try:
            from_bytes(mutate(message, random.Random(seed)))
        except DamagedData as error:
            sentences.append(str(error))
    assert sum("digest" in sentence for sentence in sentences) < len(sentences) / 3
    assert sum(sentence.startswith("layer ") for sentence in sentences) > 30


def test_the_oracle_sees_what_it_is_for():
    for text in ("", "a\nb", "\x1b[31m", "\ud800", "x" * 1001):
        with pytest.raises(AssertionError):
            check_text(text)
    with pytest.raises(AssertionError):
        check_text("a\nb\x1b", own=True)
