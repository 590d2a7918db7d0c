"""A field of a scenario that is one of a table's kinds: `fedavg`, or `{kind: fedavg}` with its options."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fedapt.options import Kind


@dataclass(frozen=True)
class OneOf:
    """Marks a field that holds one of a table's kinds, as a block with `kind` or as the bare name."""

    table: Mapping[str, type[Kind]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds: dict[Hashable, CoreSchema] = {name: handler.generate_schema(kind) for name, kind in self.table.items()}
        return core_schema.no_info_before_validator_function(_block, core_schema.tagged_union_schema(kinds, "kind"))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self.table)}, handler(schema)]}


def _block(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value
