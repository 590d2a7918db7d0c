"""Where the figures come from: the scenario, what was measured and what modelled, and the command that repeats it all."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from fedapt.errors import DamagedData, FedaptError
from fedapt.report.elements import card, table, text
from fedapt.scenario import Scenario

if TYPE_CHECKING:
    from fedapt.results import Run

MEANINGS = {
    "measured": "taken from the real messages or from a sensor",
    "modelled": "computed from the layers' shapes and the device profile; no device was measured",
    "constant": "a fixed figure from the device profile",
}
ALWAYS_SAID = {"name", "seed", "rounds"}


def origin_cards(run: Run) -> list[str]:
    """Return the cards of where the figures come from."""
    lines = [
        [cost, source, f"{count:,}", MEANINGS.get(source, "")]
        for cost, counts in run.summary["sources"].items()
        for source, count in counts.items()
    ]
    command = f"fedapt run {shlex.quote(str(run.path / 'scenario.yaml'))}"
    machine = table(["part", "version or value"], [[name, value] for name, value in run.environment.items()])
    again = (
        f"<pre>{text(command)}</pre>"
        f"<details><summary>versions, machine and the command it was started with</summary>{machine}</details>"
    )
    origins = table(["cost", "origin", "rows", "meaning"], lines)
    return [
        _scenario_card(run),
        card("Measured or modelled", "Where each cost comes from.", origins, wide=True),
        card("Run it again", "The resolved scenario gives the same bits on the same versions.", again, wide=True),
    ]


def _scenario_card(run: Run) -> str:
    """Return the scenario: what was set in it, and, folded away, what was left at its default."""
    said = parsed(run)
    own = _own_keys(said)
    changed = [line for line in flat(said) if line[0] in own]
    rest = [line for line in flat(said) if line[0] not in own]
    folded = f"<details><summary>{len(rest)} more keys, at their defaults</summary>{table(['key', 'value'], rest)}</details>"
    content = (
        table(["key", "value"], changed)
        + (f"<div class='soft'>{folded}</div>" if rest else "")
        + f"<details><summary>scenario.yaml, every default filled in</summary><pre>{escape(run.scenario)}</pre></details>"
    )
    return card("Scenario", "What this run was told that is not a default.", content, wide=True)


def parsed(run: Run) -> dict[str, Any]:
    """Return the scenario of a run as plain data; raises DamagedData if it is none."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        data = YAML(typ="safe").load(run.scenario)
        int(data["rounds"])
    except (YAMLError, KeyError, TypeError, ValueError) as error:
        path = run.path / "scenario.yaml"
        raise DamagedData(f"{path} is not the scenario of a run ({type(error).__name__}). Restore it from a copy.") from None
    return dict(data)


def _own_keys(said: Mapping[str, Any]) -> set[str]:
    """Return the keys that are not at their default, and the kind of each block that is not; all of them if nobody can tell."""
    every = {key for key, _ in flat(said)}
    try:
        own = Scenario.model_validate(said).model_dump(exclude_defaults=True)
    except (ValidationError, FedaptError):
        # The strategy may be a plug-in that is not loaded here.
        return every
    return every & ({key for key, _ in flat(own)} | ALWAYS_SAID | {f"{block}.kind" for block in _blocks(own)})


def _blocks(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        yield key
        for name, item in value.items():
            yield from _blocks(item, f"{key}.{name}" if key else str(name))


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key.of.a.setting, its value as YAML writes it)."""
    if isinstance(value, Mapping) and value:
        for name, item in value.items():
            yield from flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, Sequence) and value and all(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value):
            yield from flat(item, f"{key}[{number}]")
    else:
        yield key, _yaml(value)


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{}"
    return f"[{', '.join(map(_yaml, value))}]" if isinstance(value, (list, tuple)) else str(value)
