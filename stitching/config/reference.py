"""The configuration reference in Markdown, made from the JSON schemas: every key with its type, default and meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["reference_page"]

_PART = "part."
_SCALARS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "nothing",
}
_HEAD = "| key | value | default | meaning |\n| --- | --- | --- | --- |\n"


def reference_page(introduction: str, sections: Mapping[str, tuple[str, Mapping[str, Any]]]) -> str:
    """The page.

    Args:
        introduction: the text at the top.
        sections: titles, each with a first sentence and the JSON schema of the document that it describes. Keys of two
            sections are described in the first of them.
    """
    described: set[str] = set()
    parts: Mapping[str, Any] = {}
    pages = [introduction.rstrip()]
    common: set[str] = set()
    for title, (words, schema) in sections.items():
        definitions = schema.get("$defs", {})
        parts = parts or definitions
        own = {key: value for key, value in _properties(schema).items() if key not in common}
        common |= own.keys()
        pages.append(f"## {title}\n\n{words}\n\n{_table(own, schema.get('required', ()))}")
        for name in _mentioned(own, definitions):
            if name not in described and not name.startswith(_PART):
                described.add(name)
                pages.append(_section(name, definitions[name]))
    pages += _parts(parts)
    return "\n\n".join(pages) + "\n"


def _parts(definitions: Mapping[str, Any]) -> list[str]:
    """The chapter on parts: what all may carry, then each of them."""
    parts = {name.removeprefix(_PART): value for name, value in definitions.items() if name.startswith(_PART)}
    shared = set.intersection(*({*part["properties"]} for part in parts.values())) if parts else set()
    first: Mapping[str, Any] = next(iter(parts.values()), {"properties": {}})
    shared_keys = {key: value for key, value in first["properties"].items() if key in shared}
    words = "A part is one name with its arguments, such as `SimpleAdapter: {num_conv: 1}`. All parts take:"
    pages = [f"## Parts\n\n{words}\n\n{_table(shared_keys, ())}"]
    for name, part in parts.items():
        own = {key: value for key, value in part["properties"].items() if key not in shared}
        pages.append(_section(name, {**part, "properties": own}))
    return pages


def _section(name: str, schema: Mapping[str, Any]) -> str:
    words = str(schema.get("description", "")).strip()
    more = "\n\nFurther keys are passed on as they are." if schema.get("additionalProperties") is True else ""
    table = _table(schema.get("properties", {}), schema.get("required", ()))
    return f"### {name}\n\n{words}{more}\n\n{table}".rstrip()


def _table(properties: Mapping[str, Any], required: Iterable[str]) -> str:
    rows = []
    for key, schema in properties.items():
        default = "required" if key in required else _shown_default(schema.get("default"))
        meaning = schema.get("description", "")
        rows.append(f"| `{key}` | {_words(schema)} | {default} | {_cell(meaning)} |")
    return _HEAD + "\n".join(rows) if rows else ""


def _properties(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a document; of one that is a mapping of user's names, those below each name."""
    if "anyOf" in schema:
        return {key: value for way in schema["anyOf"] for key, value in way.get("properties", {}).items()}
    below = schema.get("additionalProperties")
    return _properties(below) if isinstance(below, dict) else dict(schema["properties"])


def _mentioned(value: Any, definitions: Mapping[str, Any], seen: set[str] | None = None) -> list[str]:
    """The names of the definitions that a schema refers to, directly or not, in order."""
    seen = set() if seen is None else seen
    names: list[str] = []
    for name in re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(value)):
        if name != "part" and name not in seen:
            seen.add(name)
            names += [name, *_mentioned(definitions[name], definitions, seen)]
    return names


def _words(schema: Mapping[str, Any]) -> str:
    """The values that a key may have, as text."""
    ways = [way for way in schema.get("anyOf", schema.get("oneOf", [])) if way.get("type") != "null"]
    if str(schema.get("description", "")).startswith("A kind, or [kind, size]") or any(
        str(way.get("description", "")).startswith("A kind, or [kind, size]") for way in ways
    ):
        return "[format](#formats)"
    if ways:
        return ", or ".join(dict.fromkeys(_words(way) for way in ways))
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return "[part](#parts)" if name == "part" else f"[{name}](#{name.lower()})"
    if "$comment" in schema:  # in place of names that depend on a library's version
        return str(schema["$comment"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{_yaml(value)}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        items = _words(schema.get("items", {}))
        return f"list of {items.replace('number', 'numbers', 1)}"
    if schema.get("type") == "object":
        below = schema.get("additionalProperties")
        return f"mapping to {_words(below)}" if isinstance(below, dict) and below else "mapping"
    return _SCALARS.get(schema.get("type", ""), "any value") + _bounds(schema)


def _bounds(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum", schema.get("exclusiveMaximum"))
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']:g}" + (f", up to {high:,}" if high is not None else "")
    if low is not None and high is not None and high < 2**31:
        return f", {low:,} to {high:,}"
    return f", at least {low:,}" if low is not None else ""


def _shown_default(value: Any) -> str:
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None}
        return f"`{_yaml(kept)}`" if kept else ""
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{key}: {_yaml(item)}" for key, item in value.items() if item not in (None, {}))
        return f"{{{', '.join(pairs)}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
