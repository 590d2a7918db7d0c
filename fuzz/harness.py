"""What the fuzz targets have in common: atheris around a function of bytes, and what a refusal has to look like.

A target's `accepts(data)` returns whether the bytes were taken, raises nothing for bytes that are refused in a sentence, and
raises anything else for a finding. It needs no atheris, so that a test can replay the corpus.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST_SENTENCE = 1000

Mutate = Callable[[bytes, random.Random], bytes]


def corpus(name: str) -> list[Path]:
    """Return the committed inputs of a target."""
    return sorted((ROOT / "fuzz" / "corpus" / name).iterdir())


def check_text(text: str, *, own: bool = False) -> None:
    """Check that text can be shown, and written into a ledger: printable characters, and not too many.

    own: it is about a file that the user named, so it may be longer, and of several lines.
    """
    odd = sorted({char for char in text if not char.isprintable() and not (own and char == "\n")})
    assert text and not odd, f"a refusal with unprintable characters {odd!r}: {text[:200]!r}"
    assert len(text) <= LONGEST_SENTENCE * (60 if own else 1), f"a refusal of {len(text)} characters: {text[:200]!r}"


def fuzz(name: str, accepts: Callable[[bytes], bool], mutate: Mutate) -> None:
    """Fuzz until libFuzzer's options say stop, with the committed corpus; what is found to be new goes to build/fuzz/NAME.

    Half of the mutations are `mutate`, which knows the format; the others are libFuzzer's own, which does not.
    """
    import atheris

    def mutated(data: bytes, largest: int, seed: int) -> bytes:
        stream = random.Random(seed)
        changed = mutate(data, stream) if stream.random() < 0.5 else atheris.Mutate(data, max(largest, 1))
        return changed[:largest]

    found = ROOT / "build" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    folders = [str(found), str(ROOT / "fuzz" / "corpus" / name)]
    arguments = [sys.argv[0], "-max_len=16384", "-timeout=10", "-rss_limit_mb=6000", f"-artifact_prefix={found}-"]
    atheris.Setup([*arguments, *sys.argv[1:], *folders], accepts, custom_mutator=mutated)
    atheris.Fuzz()


def instrumented(*modules: str):  # type: ignore[no-untyped-def]
    """Return a context in which these modules, imported for the first time, report their coverage to atheris, if it is here."""
    from contextlib import nullcontext

    try:
        import atheris
    except ImportError:
        return nullcontext()
    return atheris.instrument_imports(include=list(modules), enable_loader_override=False)
