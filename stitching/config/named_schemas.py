"""Schemas that YAML names: one name with its arguments, `{name: {...}}`, as parts and objectives are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from stitching.config.errors import did_you_mean, shortened
from stitching.config.registries import Registry
from stitching.config.schema import Schema, complaint

__all__ = ["NamedSchemas"]

S = TypeVar("S", bound=Schema)
C = TypeVar("C", bound=type[Schema])


class NamedSchemas(Registry[type[S]], Generic[S]):
    """A registry of schemas; a schema gets its name as a class attribute when it is registered.

    Args:
        kind, home: as for `Registry`.
        attribute: the class attribute.
    """

    def __init__(self, kind: str, home: str, *, attribute: str) -> None:
        super().__init__(kind, home)
        self._attribute = attribute

    def register(self, name: str, origin: str | None = None) -> Callable[[C], C]:  # type: ignore[override]
        def add(schema: C) -> C:
            super(NamedSchemas, self).register(name, origin)(schema)  # type: ignore[arg-type]
            setattr(schema, self._attribute, name)
            return schema

        return add

    def validated(self, value: dict[Any, Any], also: Sequence[str] = ()) -> S:
        """`{name: arguments}` as an instance of the schema with this name.

        Args:
            value: a mapping with one key.
            also: further names that the field allows, for the message.

        Raises:
            PydanticCustomError: there is no such name, or its arguments are no mapping.
        """
        ((name, arguments),) = value.items()
        if name not in self:
            names = [*also, *self]
            problem = f"there is no {self.kind} {shortened(name)}{did_you_mean(name, names)}"
            raise complaint(problem, ", ".join(names), key=str(name))
        if arguments is not None and not isinstance(arguments, dict):
            raise complaint(f"the arguments of {name} are a mapping, found {shortened(arguments)}", key=name)
        return _checker(self[name]).validate_python({name: arguments or {}})[name]


@lru_cache(maxsize=256)
def _checker(schema: type[S]) -> TypeAdapter[dict[str, S]]:
    """Validates `{name: arguments}`, so that errors have the name in their path."""
    return TypeAdapter(dict[str, schema])  # type: ignore[valid-type]
