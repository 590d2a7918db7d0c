"""What every block of a scenario is made of: strict frozen models, and quantities with units."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
JOULES = {"uJ": 1e-6, "mJ": 1e-3, "J": 1.0, "kJ": 1e3, "Wh": 3600.0}


class Options(BaseModel):
    """A block of a scenario: unknown keys are refused, values are not coerced, instances do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Kind(Options):
    """A block that is chosen by its `kind`; `name` alone is short for `{kind: name}`."""

    kind: str


def quantity(text: Any, units: dict[str, float], example: str) -> float:
    """Read a number or a string such as `64 MiB` in the base unit; raises ValueError naming the units."""
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        return text
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]+)\s*", str(text))
    if not match or match[2] not in units:
        raise ValueError(f"expected a number with a unit ({', '.join(units)}), for example `{example}`")
    number = float(match[1]) * units[match[2]]
    if not math.isfinite(number):
        raise ValueError(f"expected a number with a unit of a usable size, for example `{example}`")
    return number


def _shortest(value: float, units: dict[str, float]) -> str:
    """Write a quantity in the largest unit in which it is exact and short."""
    for unit, factor in sorted(units.items(), key=lambda item: -item[1]):
        count = value / factor
        if count >= 1 and float(f"{count:g}") * factor == value:
            return f"{count:g} {unit}"
    base = next(unit for unit, factor in units.items() if factor == 1)
    return f"{value!r} {base}"


def _unit(units: dict[str, float], example: str) -> tuple[Any, ...]:
    pattern = rf"^\s*[0-9.eE+-]+\s*({'|'.join(units)})\s*$"
    read: Callable[[Any], float] = lambda text: quantity(text, units, example)  # noqa: E731
    return (
        PlainSerializer(lambda value: _shortest(value, units), return_type=str),
        WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": pattern}]}),
        BeforeValidator(read),
    )


def _whole(value: Any) -> Any:
    return round(value) if isinstance(value, float) else value


Bytes = Annotated[int, Field(gt=0), BeforeValidator(_whole), *_unit(BYTES, "64 MiB")]
Joules = Annotated[float, Field(gt=0), *_unit(JOULES, "2 J")]
