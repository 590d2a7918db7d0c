"""A field of a scenario that is one of a table's kinds: `fedavg`, or `{kind: fedavg}` with its options."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from fedapt.options import Kind


class Plugged(Protocol):
    """Kinds that are no table's: those with a colon in their name."""

    def options(self, kind: str) -> type[Kind]:
        """Return the block of a kind; raises ValueError with a sentence if there is none."""

    def known(self) -> Mapping[str, type[Kind]]:
        """Return the blocks of the kinds that can be named now."""


@dataclass(frozen=True)
class OneOf:
    """Marks a field that holds one of a table's kinds, or one that is plugged in, as a block with `kind` or as the bare name.

    usual: the kind of a block that names none. A plug-in may add to the table at any time: pydantic knows the kinds that were
    there when it was told of the field.
    """

    table: Mapping[str, type[Kind]]
    plugged: Plugged | None = None
    usual: str | None = None
    _told: set[str] = field(default_factory=set, init=False, compare=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        kinds: dict[Hashable, CoreSchema] = {name: handler.generate_schema(kind) for name, kind in self.table.items()}
        self._told.update(self.table)
        told = core_schema.tagged_union_schema(kinds, "kind")
        written = core_schema.wrap_serializer_function_ser_schema(self._written, info_arg=True, schema=told)
        return core_schema.no_info_wrap_validator_function(self._read, told, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        more = {name: kind for name, kind in self.table.items() if name not in self._told}
        more |= self.plugged.known() if self.plugged else {}
        blocks = [handler(schema), *(handler(kind.__pydantic_core_schema__) for kind in more.values())]
        return {"anyOf": [{"enum": [*self._in_order(), *more]}, *blocks]}

    def _in_order(self) -> list[str]:
        return [name for name in self.table if name in self._told]

    def _read(self, value: Any, told: Callable[[Any], Any]) -> Any:
        block = {"kind": value} if isinstance(value, str) else value
        if self.usual and isinstance(block, dict) and "kind" not in block:
            block = {"kind": self.usual, **block}
        kind = block.get("kind") if isinstance(block, dict) else getattr(block, "kind", None)
        if not isinstance(kind, str) or kind in self._told:
            return told(block)
        try:
            options = self._untold(kind)
        except ValueError as error:
            details = InitErrorDetails(type="value_error", loc=("kind",), input=kind, ctx={"error": error})
            raise ValidationError.from_exception_data("kind", [details]) from None
        return options.model_validate(block) if options else told(block)

    def _untold(self, kind: str) -> type[Kind] | None:
        """Return the block of a kind that pydantic was not told of; None if there is none."""
        return self.plugged.options(kind) if self.plugged and ":" in kind else self.table.get(kind)

    def _written(self, value: Any, told: Callable[[Any], Any], info: core_schema.SerializationInfo) -> Any:
        if isinstance(value, BaseModel) and getattr(value, "kind", None) not in self._told:
            return value.model_dump(mode=info.mode)
        return told(value)
