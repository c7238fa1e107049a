"""JSON schemas of what a user writes in YAML, for editors that complete and check it."""

from __future__ import annotations

from typing import Any

from stitching.config.field_descriptions import described_schema
from stitching.config.parts import PART_COMMENT, PARTS
from stitching.config.schema import Schema

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(*schemas: type[Schema]) -> dict[str, Any]:
    """The JSON schema of documents of one of these schemas, with all parts that are registered by now."""
    definitions: dict[str, Any] = {}
    tops = [_without_definitions(described_schema(schema), definitions) for schema in schemas]
    for name, part in PARTS.items():
        definitions[f"part.{name}"] = _without_definitions(described_schema(part), definitions)
    definitions["part"] = {
        "description": "A part of a network: one name with its arguments.",
        "type": "object",
        "properties": {name: _arguments(name, part) for name, part in PARTS.items()},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    top = tops[0] if len(tops) == 1 else {"anyOf": tops}
    return {"$schema": _DIALECT, **_clean({**top, "$defs": definitions})}


def _without_definitions(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema without its definitions, which are added to the common ones."""
    definitions.update(schema.pop("$defs", {}))
    return schema


def _arguments(name: str, part: type[Schema]) -> dict[str, Any]:
    reference: dict[str, Any] = {"$ref": f"#/$defs/part.{name}"}
    needs_some = any(field.is_required() for field in part.model_fields.values())
    return reference if needs_some else {"anyOf": [reference, {"type": "null"}]}


def _clean(value: Any) -> Any:
    """The schema without pydantic's titles, and with a reference in place of every part."""
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("$comment") == PART_COMMENT:
        return {"$ref": "#/$defs/part"}
    cleaned = {key: _clean(item) for key, item in value.items() if not (key == "title" and isinstance(item, str))}
    if isinstance(cleaned.get("description"), str):
        cleaned["description"] = " ".join(cleaned["description"].split())
    return cleaned
