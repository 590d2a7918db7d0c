"""fedapt.data.tokens: words by their hash, characters by their place in a fixed alphabet."""

import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedapt.data.tokens import ALPHABET, CHARACTERS, Characters, Words, character_codes, hashed_words, vocabulary


def test_words_are_hashed_in_lower_case_and_padded():
    (tokens,) = hashed_words(["My card: where's my CARD_2?"], Words(vocabulary=1000, length=8))
    expected = [1 + zlib.crc32(word) % 999 for word in (b"my", b"card", b"where's", b"my", b"card_2")]
    assert tokens.tolist() == [*expected, 0, 0, 0]


def test_only_the_first_words_are_used_and_no_words_are_all_padding():
    tokens = hashed_words(["a b c d", "", "?!"], Words(length=2))
    assert tokens[0].tolist() == hashed_words(["a b"], Words(length=2))[0].tolist()
    assert not tokens[1:].any()


@pytest.mark.parametrize(("size", "kind"), [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65_537, np.uint32)])
def test_tokens_are_stored_in_the_smallest_type_that_holds_the_vocabulary(size, kind):
    assert hashed_words(["a"], Words(vocabulary=size)).dtype == kind


@given(st.lists(st.text(max_size=30), max_size=5), st.integers(2, 300))
def test_every_word_has_a_code_that_is_no_padding(texts, size):
    tokens = hashed_words(texts, Words(vocabulary=size, length=20))
    assert tokens.shape == (len(texts), 20) and (tokens < size).all()
    words = (tokens != 0).astype(int)
    assert (np.diff(words, axis=1) <= 0).all()


def test_words_are_the_same_in_another_process():
    code = "from fedapt.data.tokens import *; print(hashed_words(['to be or not'], Words())[0].tolist())"
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{hashed_words(['to be or not'], Words())[0].tolist()}\n"


def test_the_alphabet_is_printable_ascii_and_the_end_of_a_line():
    assert len(ALPHABET) == 96 and ALPHABET[0] == "\n" and all(character.isprintable() for character in ALPHABET[1:])
    assert character_codes(ALPHABET).tolist() == list(range(1, 97))


@given(st.text())
def test_every_character_has_one_code_and_strangers_share_the_last(text):
    codes = character_codes(text)
    assert len(codes) == len(text) and codes.dtype == np.uint8
    expected = [ALPHABET.index(character) + 1 if character in ALPHABET else 97 for character in text]
    assert codes.tolist() == expected


def test_the_vocabulary_counts_the_padding():
    assert vocabulary(Words(vocabulary=7)) == 7 and vocabulary(Characters()) == len(CHARACTERS) + 1 == 98
