"""Fuzz `fedapt.scenario.load_scenario` as a file from elsewhere: `python -m fuzz.scenario`.

A file is refused with ScenarioError, or it is a scenario that writes and reads to itself.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from tempfile import mkdtemp

from fuzz.harness import check_text, fuzz, instrumented

with instrumented("fedapt.reading", "fedapt.scenario"):
    from fedapt.scenario import dump_scenario, load_scenario

from fedapt.errors import ScenarioError

# Written many times a second: in memory where there is such a folder.
FILE = Path(mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)) / "scenario.yaml"
VALUES = [
    *("", "~", "1", "-1", "0", "1e-3", "1e999", ".inf", ".nan", "0x1f", "1_0", "9" * 400, "true", "off", "'", '"', "[", "{", "|"),
    *("!!python/object/apply:os.system [true]", "!!binary aGk=", "!!set {a}", "&a [1]", "*a", "&a [*a, *a]", "<<: *a", "24 MiB"),
    *("[1, 2]", "{kind: iid}", "{kind: dirichlet, alpha: -1}", "{kind: {}}", "2024-01-01", "\t", "\u2028", "\u0085", "---"),
    *("inline", "ray", "apt", "{kind: fixed, bits: 4}", "digits", "/dev/zero", "..", "%YAML 1.1", "? a", "? [a]\n: b", "x: y: z"),
]


def accepts(content: bytes) -> bool:
    """Return whether a file was taken as a scenario."""
    FILE.write_bytes(content)
    try:
        scenario = load_scenario(str(FILE))
    except ScenarioError as error:
        check_text(str(error), own=True)
        return False
    FILE.write_text(dump_scenario(scenario), encoding="utf-8")
    assert load_scenario(str(FILE)) == scenario
    return True


def mutate(content: bytes, stream: random.Random) -> bytes:
    """Change one line: its value, its indentation, its place or whether it is there."""
    lines = content.decode("utf-8", "replace").split("\n")
    place = stream.randrange(len(lines))
    line = lines[place]
    match stream.randrange(6):
        case 0:
            lines[place] = line.partition(":")[0] + ": " + stream.choice(VALUES)
        case 1:
            lines[place] = stream.choice(["", " ", "  ", "    ", "\t", "- "]) + line.lstrip()
        case 2:
            lines.insert(place, stream.choice(lines))
        case 3:
            del lines[place]
        case 4:
            words = line.split(" ")
            words[stream.randrange(len(words))] = stream.choice(VALUES)
            lines[place] = " ".join(words)
        case 5:
            at = stream.randrange(len(line) + 1)
            lines[place] = line[:at] + stream.choice([*",:[]{}&*!|>'\"%@`#-\\\0\x7f\ufeff\U0001f600"]) + line[at:]
    return "\n".join(lines).encode("utf-8", "replace")


if __name__ == "__main__":
    fuzz("scenario", accepts, mutate)
