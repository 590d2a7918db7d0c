"""Text as tokens: small whole numbers, of which 0 is padding.

Both kinds are functions of one text alone, so that no client has to learn what the others write: words are hashed into a
vocabulary of fixed size, characters come from a fixed alphabet.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field

from fedapt.data.partition import spelled_out
from fedapt.options import Kind

ALPHABET = "\n" + "".join(map(chr, range(32, 127)))
"""Printable ASCII and the end of a line: character k has the code k + 1, all others share the code after the last."""

CHARACTERS = (*ALPHABET, "other")

MOST_TOKENS = 2**16

Array = npt.NDArray[Any]


class Tokens(Kind):
    """How text becomes tokens."""


class Words(Tokens):
    """A text with a label is its words in lower case, hashed."""

    kind: Literal["words"] = "words"
    vocabulary: int = Field(
        default=4096, ge=2, le=2**31, description="tokens there are, padding included; words that share one look the same"
    )
    length: int = Field(default=32, ge=1, le=MOST_TOKENS, description="words of a text that are used, the first ones")


class Characters(Tokens):
    """Running text is cut into windows; the label of a window is the character that follows it."""

    kind: Literal["characters"] = "characters"
    length: int = Field(default=80, ge=1, le=MOST_TOKENS, description="characters of a window")
    stride: int = Field(
        default=10, ge=1, le=10**6, description="characters from one window to the next; 1 makes ten times as many samples"
    )


if TYPE_CHECKING:
    AnyTokens = Tokens
else:
    _BLOCK = Annotated[Words | Characters, Field(discriminator="kind")]
    _NAME_OR_BLOCK = Literal["words", "characters"] | _BLOCK
    AnyTokens = Annotated[_BLOCK, BeforeValidator(spelled_out, json_schema_input_type=_NAME_OR_BLOCK)]


def vocabulary(options: Tokens) -> int:
    """Return how many tokens there are, padding included."""
    return options.vocabulary if isinstance(options, Words) else len(CHARACTERS) + 1


def hashed_words(texts: Sequence[str], options: Words) -> Array:
    """Return the tokens (n, length) of each text's first words, then padding; the same on every machine."""
    kind = np.min_scalar_type(options.vocabulary - 1)
    tokens = np.zeros((len(texts), options.length), kind)
    for row, text in enumerate(texts):
        codes = [1 + zlib.crc32(word.encode()) % (options.vocabulary - 1) for word in _words(text)[: options.length]]
        tokens[row, : len(codes)] = codes
    return tokens


def character_codes(text: str) -> npt.NDArray[np.uint8]:
    """Return the code of each character, 1 .. len(CHARACTERS)."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    known = np.full(128, len(CHARACTERS), np.uint8)
    known[[ord(character) for character in ALPHABET]] = np.arange(1, len(ALPHABET) + 1)
    return known[np.minimum(points, 127)]


def _words(text: str) -> list[str]:
    """Return the words in lower case, `don't` being one."""
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())
