"""Registries: the entries of one kind that a config can name, each registered beside its definition."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Generic, TypeVar
from weakref import WeakSet

from stitching.config.errors import UserError, unknown_name

__all__ = ["NameIn", "Registry", "undo_if_it_fails"]

T = TypeVar("T")

_REGISTRIES: WeakSet[Registry[Any]] = WeakSet()


@contextmanager
def undo_if_it_fails() -> Iterator[None]:
    """Undo all registrations of the body if it raises."""
    before = [(registry, dict(registry._entries)) for registry in _REGISTRIES]
    try:
        yield
    except BaseException:
        for registry, entries in before:
            for name in registry._entries.keys() - entries.keys():
                if not _is_ours(registry._origins[name]):  # our modules, imported meanwhile, are not imported again
                    del registry._entries[name]
        raise


class Registry(Generic[T]):
    """Entries of one kind by the name that a config gives them, in the order in which they were registered.

    Args:
        kind: what messages call an entry: `part`, `loss`.
        homes: the modules or packages that register ours. They are imported when the registry is first read, so that a
            registry may stand below the rooms whose entries it lists.

    >>> PARTS: Registry[type] = Registry("part", "stitching.nets.parts")
    >>> @PARTS.register("MyAdapter")
    ... class MyAdapter: ...
    """

    def __init__(self, kind: str, *homes: str) -> None:
        self.kind = kind
        self._homes = homes
        self._entries: dict[str, T] = {}
        self._origins: dict[str, str] = {}  # the module that registered each
        _REGISTRIES.add(self)

    def register(self, name: str, origin: str | None = None) -> Callable[[T], T]:
        """A decorator that registers what it decorates, and leaves it as it is.

        Args:
            origin: the module that the entry comes from; by default the one that defines the entry.

        Raises:
            UserError: the name is taken, or the entry is a class that lacks methods.
        """

        def add(entry: T) -> T:
            module = str(origin or getattr(entry, "__module__", "?"))
            if lacking := getattr(entry, "__abstractmethods__", None):
                raise UserError(f"the {self.kind} {name!r} lacks the method {min(lacking)}")
            if not _is_ours(module):
                self._fill()  # so that no name of ours can be taken
            if name in self._entries:
                raise UserError(
                    f"the {self.kind} {name!r} is registered twice: by {_shown(self._origins[name])} and by "
                    f"{_shown(module)}",
                    allowed="a name that is not taken",
                )
            self._entries[name] = entry
            self._origins[name] = module
            return entry

        return add

    def __getitem__(self, name: str) -> T:
        """The entry called `name`. Raises `UserError` for a name that nothing has; it offers the nearest."""
        self._fill()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._fill()
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        self._fill()
        return len(self._entries)

    def items(self) -> list[tuple[str, T]]:
        """The names with their entries."""
        self._fill()
        return list(self._entries.items())

    def _fill(self) -> None:
        homes, self._homes = self._homes, ()
        for home in homes:
            import_module(home)


class NameIn:
    """Declares, in a field's `Annotated`, that it holds a name of a registry, for the schema that editors read.

    Args:
        registry: `module:NAME`. It is imported when the schema is made.
        library: where the names are from, if they are not ours: they depend on its version, so the configuration
            reference does not list them.
    """

    def __init__(self, registry: str, *, library: str | None = None) -> None:
        self._registry = registry
        self._library = library

    def __get_pydantic_json_schema__(
        self, core_schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        module, _, name = self._registry.partition(":")
        comment = {"$comment": f"class of `{self._library}`"} if self._library else {}
        return {**handler(core_schema), "enum": list(getattr(import_module(module), name)), **comment}


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == __name__.split(".")[0]


def _shown(module: str) -> str:
    """A module as its author knows it: ours by its name, a user's by its file."""
    path = getattr(sys.modules.get(module), "__file__", None)
    return path if path and not _is_ours(module) else module
