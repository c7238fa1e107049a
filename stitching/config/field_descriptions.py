"""JSON schemas of pydantic models whose fields are described by the docstrings below them.

Pydantic's `use_attribute_docstrings` would read these at every import, which takes longer than all else in it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

__all__ = ["described_schema"]


def described_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model, with the docstrings of its fields and of those of the models in it."""
    return model.model_json_schema(schema_generator=_WithDocstrings)


class _WithDocstrings(GenerateJsonSchema):
    def model_schema(self, schema: Any) -> dict[str, Any]:
        json_schema = super().model_schema(schema)
        docstrings = _field_docstrings(schema["cls"])
        for name, field in json_schema.get("properties", {}).items():
            if name in docstrings:
                field.setdefault("description", docstrings[name])
        return json_schema


@cache
def _field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a model, be it declared there or in a model that this one extends."""
    docstrings: dict[str, str] = {}
    for base in reversed(model.__bases__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            docstrings |= _field_docstrings(base)
    try:
        source = textwrap.dedent(inspect.getsource(model))
    except (OSError, TypeError):  # a user's class without a file
        return docstrings
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    for statement, following in pairwise(definition.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docstrings[name] = inspect.cleandoc(text)
    return docstrings
