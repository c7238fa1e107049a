"""YAML files as plain data that remembers where every value stood.

Loaded safely (no tag creates an object), with `!include`, anchors and merge keys. Three traps of PyYAML are closed:
a key that stands twice is an error, `1e-3` is a number, and a key such as `on` stays a string.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from stitching.config.errors import UserError

__all__ = ["Document", "load_yaml", "parse_assignments"]

Keys = tuple[str | int, ...]
_MAX_VALUES = 200_000  # no honest config is larger; nested aliases ("billion laughs") are


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads YAML 1.2's floats."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\d[\d_]*\.[\d_]*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


@dataclass
class Document:
    """A loaded file: its data, and for each path of keys the place it was read from."""

    path: Path
    data: Any
    places: dict[Keys, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the file start from."""
        return self.path.parent

    def locate(self, error: UserError) -> UserError:
        """Give `error` its file and line: those of the longest part of its path that the file has."""
        if error.place is None:
            keys = error.path
            while keys and keys not in self.places:
                keys = keys[:-1]
            error.place = self.places.get(keys, str(self.path))
        return error

    def override(self, keys: Keys, value: object, said_by: str) -> None:
        """Set a value from outside the file, e.g. from the command line; mappings on the way are made."""
        place = self.data
        for done, key in enumerate(keys[:-1], 1):
            if not isinstance(place, dict):
                raise self.locate(UserError(f"expected a mapping, found {place!r}", path=keys[: done - 1]))
            if place.get(key) is None:
                place[key] = {}
                self.places[keys[:done]] = said_by
            place = place[key]
        if not isinstance(place, dict):
            raise self.locate(UserError(f"expected a mapping, found {place!r}", path=keys[:-1]))
        place[keys[-1]] = value
        self.places[keys] = said_by

    def remove(self, keys: Keys) -> None:
        """Take a value out, if it is there."""
        place = self.data
        for key in keys[:-1]:
            place = place.get(key) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(keys[-1], None)


def parse_value(text: str, said_by: str) -> Any:
    """A value as YAML would read it: `1e-3` is a number, `[1, 2]` a list."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError:
        raise UserError(f"{said_by}: {text!r} is not YAML") from None


def parse_assignments(texts: Sequence[str], option: str, example: str) -> dict[str, Any]:
    """`KEY=VALUE` texts, whose values are YAML, by key; `option` is what they were given with."""
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"{option} {text!r} is no assignment", allowed=f"{option} {example}")
        values[key] = parse_value(value, f"{option} {text}")
    return values


def load_yaml(path: str | Path) -> Document:
    """Load a YAML file.

    Raises:
        UserError: the file (or an included one) is missing, unreadable, no YAML, includes itself, repeats a key or
            asks for a tag other than `!include`.
    """
    document = Document(Path(path), None)
    document.data = _Reader(document).read(document.path, ())
    return document


class _Reader:
    def __init__(self, document: Document) -> None:
        self.places = document.places
        self.files: list[Path] = []
        self.open_nodes: list[int] = []

    def read(self, path: Path, keys: Keys) -> Any:
        text = _text_of(path)
        try:
            loader = _Loader(text)
            loader.name = str(path)
            node = loader.get_single_node()
        except yaml.YAMLError as error:
            raise _syntax_error(path, error) from None
        self.files.append(path.resolve())
        try:
            return None if node is None else self.value(node, keys, loader)
        finally:
            self.files.pop()

    def value(self, node: yaml.Node, keys: Keys, loader: _Loader) -> Any:
        place = f"{node.start_mark.name}:{node.start_mark.line + 1}"
        self.places.setdefault(keys, place)
        if len(self.places) > _MAX_VALUES:
            raise _told(f"the file unfolds to more than {_MAX_VALUES} values", place, keys)
        if id(node) in self.open_nodes:
            raise _told("this anchor contains itself", place, keys)
        self.open_nodes.append(id(node))
        try:
            if node.tag == "!include":
                return self.include(node, keys, place)
            if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
                raise _told(f"the tag {node.tag!r} is not allowed", place, keys, allowed="!include FILE")
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, keys, loader)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*keys, i), loader) for i, item in enumerate(node.value)]
            try:
                return loader.construct_object(node)
            except (yaml.YAMLError, ValueError) as error:
                raise _told(f"cannot read {node.value!r}: {error}", place, keys) from None
        finally:
            self.open_nodes.pop()

    def mapping(self, node: yaml.MappingNode, keys: Keys, loader: _Loader) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            place = f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise _told("a key must be a single word", place, keys)
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = key_node.value
            if key in result:
                first = self.places[(*keys, key)]
                raise _told(f"the key stands twice (first at {first})", place, (*keys, key), do="Remove one of them.")
            self.places[(*keys, key)] = place
            result[key] = self.value(value_node, (*keys, key), loader)
        for other in merged:
            place = f"{other.start_mark.name}:{other.start_mark.line + 1}"
            # What stands beside `<<` wins, in value and in place.
            if other.tag == "!include":
                known = dict(self.places)
                included = self.include(other, keys, place)
                self.places.update(known)
            elif isinstance(other, yaml.MappingNode):
                kept = [pair for pair in other.value if pair[0].value not in result]
                included = self.mapping(yaml.MappingNode(other.tag, kept, other.start_mark), keys, loader)
            else:
                included = other.value
            if not isinstance(included, dict):
                raise _told("`<<` merges mappings only", place, keys)
            result = {**included, **result}
        return result

    def include(self, node: yaml.Node, keys: Keys, place: str) -> Any:
        if not isinstance(node, yaml.ScalarNode) or not node.value:
            raise _told("!include needs the name of a file", place, keys)
        path = self.files[-1].parent / node.value
        if path.resolve() in self.files:
            chain = " -> ".join(file.name for file in [*self.files, path])
            raise _told(f"the files include each other: {chain}", place, keys)
        if not path.is_file():
            raise _told(f"the included file does not exist: {path}", place, keys)
        return self.read(path, keys)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        nearby = sorted(str(file.name) for file in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise _told("the file does not exist", str(path), allowed=", ".join(nearby) or None) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise _told(f"cannot read the file: {reason}", str(path)) from None


def _syntax_error(path: Path, error: yaml.YAMLError) -> UserError:
    mark = getattr(error, "problem_mark", None)
    place = f"{path}:{mark.line + 1}" if mark else str(path)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return _told(
        f"this is not YAML: {problem}",
        place,
        do="Look at the indentation, the colons and the quotes around this line.",
    )


def _told(problem: str, place: str, keys: Keys = (), allowed: str | None = None, do: str | None = None) -> UserError:
    error = UserError(problem, allowed=allowed, do=do, path=keys)
    error.place = place
    return error
