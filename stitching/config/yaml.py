"""YAML 1.2 as plain data with the location of every value, and a writer whose files read back the same.

Read safely (no tag creates an object), with `!include`, anchors and merge keys; a repeated key is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from stitching.config.errors import UserError, UserErrors, shortened
from stitching.config.paths import check_regular_file

__all__ = [
    "Document", "load_yaml", "located", "parse_assignments", "unwritable_character", "yaml_blocks", "yaml_text",
]  # fmt: skip

Keys = tuple[str | int, ...]

# No honest config is larger. Nested aliases ("billion laughs") unfold to more, and 1 MB takes seconds to read.
_MAX_VALUES = 200_000
_MAX_DEPTH = 100
_MAX_BYTES = 1_000_000

_TAG = "tag:yaml.org,2002:"
# The types of plain text: the core schema of YAML 1.2.2 (section 10.3.2), and underscores in numbers as in 100_000.
_CORE_SCHEMA = {
    "null": re.compile(r"null|Null|NULL|~|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
    "merge": re.compile(r"<<"),
}


def _meaning(text: str) -> str:
    """The name of the type that plain text has in YAML 1.2."""
    return next((name for name, pattern in _CORE_SCHEMA.items() if pattern.fullmatch(text)), "str")


class _Resolver(VersionedResolver):
    """The core schema, whatever version of YAML a file declares."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            return Tag(suffix=_TAG + _meaning(value))
        return super().resolve(kind, value, implicit)

    @property
    def processing_version(self) -> Any:
        return (1, 2)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml's writer, which is fast, with quotes around all that YAML 1.1 or YAML 1.2 would not read as text."""


for _name, _pattern in _CORE_SCHEMA.items():
    _Dumper.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern.pattern})$"), None)


def _represented_text(dumper: Any, text: str) -> Any:
    text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair cannot be written
    return dumper.represent_scalar(f"{_TAG}str", text)


_Dumper.add_representer(str, _represented_text)


def yaml_text(data: Any, **layout: Any) -> str:
    """Plain data as YAML, keys in their order; `load_yaml` and readers of YAML 1.1 give the same data back.

    Args:
        data: mappings, lists, text, numbers, true, false and None.
        layout: arguments of `yaml.dump`, such as its `width`.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **layout)


_BLOCKS: dict[tuple[str, str], str] = {}  # texts of blocks that were written lately
_MOST_BLOCKS = 10_000


def yaml_blocks(data: Mapping[str, Any]) -> str:
    """As `yaml_text` for a mapping that is like many before it: the text of each key with its value is kept.

    No key's block has an alias of something in another one.
    """
    if len(_BLOCKS) > _MOST_BLOCKS:
        _BLOCKS.clear()
    return "".join(_block(key, value) for key, value in data.items()) or yaml_text({})


def _block(key: str, value: Any) -> str:
    content = (key, repr(value))
    text = _BLOCKS.get(content)
    if text is None:
        text = _BLOCKS[content] = yaml_text({key: value})
    return text


def unwritable_character(text: str) -> str | None:
    """The first character that no file name, no JSON or no terminal can hold: NUL, or half of a surrogate pair."""
    match = re.search("[\0\ud800-\udfff]", text)
    return match[0] if match else None


@dataclass
class Document:
    """A loaded file: its data, and for each path of keys the file and line that it was read from."""

    path: Path
    data: Any
    locations: dict[Keys, str] = field(default_factory=dict)  # `FILE:LINE`, or the command-line option

    @property
    def folder(self) -> Path:
        """The folder that relative paths in the file start from."""
        return self.path.parent

    def folder_of(self, keys: Keys) -> Path:
        """The folder that a relative path at `keys` starts from."""
        return self.folder

    def locate(self, error: UserError) -> UserError:
        """Give `error` its file and line: those of the longest part of its path that the file has."""
        if error.location is None:
            keys = error.path
            while keys and keys not in self.locations:
                keys = keys[:-1]
            error.location = self.locations.get(keys, str(self.path))
        return error

    def override(self, keys: Keys, value: object, origin: str) -> None:
        """Set a value from outside the file, such as the command line; missing mappings on the way are created."""
        mapping = self.data
        if len(keys) > _MAX_DEPTH:
            raise UserError(f"the key has {len(keys)} parts", allowed=f"at most {_MAX_DEPTH}", path=keys[:1])
        for depth, key in enumerate(keys[:-1], 1):
            if not isinstance(mapping, dict):
                raise self.locate(UserError(f"expected a mapping, found {shortened(mapping)}", path=keys[: depth - 1]))
            if mapping.get(key) is None:
                mapping[key] = {}
                self.locations[keys[:depth]] = origin
            mapping = mapping[key]
        if not isinstance(mapping, dict):
            raise self.locate(UserError(f"expected a mapping, found {shortened(mapping)}", path=keys[:-1]))
        mapping[keys[-1]] = value
        self.locations[keys] = origin

    def remove(self, keys: Keys) -> None:
        """Remove a value, if it is there."""
        mapping = self.data
        for key in keys[:-1]:
            mapping = mapping.get(key) if isinstance(mapping, dict) else None
        if isinstance(mapping, dict):
            mapping.pop(keys[-1], None)


@contextmanager
def located(document: Document) -> Iterator[None]:
    """Give errors that leave the body the line of their key in the document."""
    try:
        yield
    except UserErrors as several:
        raise UserErrors(document.locate(error) if error.path else error for error in several.errors) from None
    except UserError as error:
        raise (document.locate(error) if error.path else error) from None


def parse_value(text: str, origin: str) -> Any:
    """A value as YAML would read it: `1e-3` is a number, `[1, 2]` a list."""
    try:
        return _Reader(Document(Path(), None)).parsed(text, ())
    except UserError as error:
        raise UserError(f"{origin}: {error.problem}", allowed=error.allowed) from None


def parse_assignments(texts: Sequence[str], option: str, example: str) -> dict[str, Any]:
    """`KEY=VALUE` texts, whose values are YAML, by key; `option` is the command-line option that has them."""
    values = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise UserError(f"{option} {shortened(text)} is no assignment", allowed=f"{option} {example}")
        values[key] = parse_value(value, f"{option} {shortened(key)}")
    return values


def load_yaml(path: str | Path) -> Document:
    """Load a YAML file.

    Raises:
        UserError: the file (or an included one) is missing, unreadable, too big, no YAML, includes itself, repeats a
            key or has a tag other than `!include`.
    """
    document = Document(Path(path), None)
    document.data = _Reader(document).read(document.path, (), str(path))
    return document


class _Reader:
    """Reads one document: its file, the files that it includes, and the lines of their values."""

    def __init__(self, document: Document) -> None:
        self.locations = document.locations
        self.files: list[Path] = []
        self.open_nodes: list[Node] = []
        self.num_bytes = 0
        self.num_values = 0

    def read(self, path: Path, keys: Keys, origin: str, overridden: AbstractSet[str] = frozenset()) -> Any:
        """The value of a file; `origin` is the line that includes it."""
        try:
            text = _text_of(path)
        except UserError as error:
            raise _error(error.problem, origin, keys, error.allowed, error.do) from None
        self.num_bytes += len(text)
        if self.num_bytes > _MAX_BYTES:
            raise _error(f"the file and what it includes have more than {_MAX_BYTES:,} bytes", origin, keys)
        self.files.append(path)
        try:
            return self.parsed(text, keys, overridden)
        finally:
            self.files.pop()

    def parsed(self, text: str, keys: Keys, overridden: AbstractSet[str] = frozenset()) -> Any:
        """The value of the YAML in `text`, which is at `keys` in the document."""
        reader = YAML(typ="safe", pure=True)
        reader.Resolver = _Resolver
        reader.max_depth = _MAX_DEPTH
        reader.composer.warn_double_anchors = False  # an anchor may be set again
        try:
            node = reader.compose(text)
        except Exception as error:  # ruamel.yaml raises more than its own errors at odd input
            raise self.syntax_error(error, text) from None
        return None if node is None else self.value(node, keys, reader.constructor, overridden)

    def origin(self, node: Node) -> str:
        return f"{self.files[-1]}:{node.start_mark.line + 1}" if self.files else ""

    @contextmanager
    def entered(self, node: Node, keys: Keys) -> Iterator[str]:
        """Count the node, and yield its file and line. Raises if the document is endless, too big or too deep."""
        origin = self.origin(node)
        self.num_values += 1
        if self.num_values > _MAX_VALUES:
            raise _error(f"the file expands to more than {_MAX_VALUES:,} values", origin, keys)
        if len(keys) > _MAX_DEPTH:
            raise _error(f"nested more than {_MAX_DEPTH} deep", origin, keys[:1])
        if any(node is above for above in self.open_nodes):
            raise _error("this anchor contains itself", origin, keys)
        self.open_nodes.append(node)
        try:
            yield origin
        finally:
            self.open_nodes.pop()

    def value(self, node: Node, keys: Keys, constructor: Any, overridden: AbstractSet[str] = frozenset()) -> Any:
        with self.entered(node, keys) as origin:
            self.locations.setdefault(keys, origin)
            if self.is_include(node):
                return self.included(node, keys, origin, overridden)
            if isinstance(node, MappingNode):
                return self.mapping(node, keys, constructor, overridden)
            if isinstance(node, SequenceNode):
                return [self.value(item, (*keys, i), constructor) for i, item in enumerate(node.value)]
            return self.scalar(node, keys, constructor)

    def scalar(self, node: Node, keys: Keys, constructor: Any) -> Any:
        self.check_text(node, keys)
        meaning = str(node.tag).removeprefix(_TAG)
        if meaning in ("str", "merge"):
            return node.value
        try:
            return constructor.construct_object(node)
        except Exception as error:  # such as `!!int x`, or more digits than Python reads
            reason = str(error).splitlines()[0]
            raise _error(
                f"cannot read {shortened(node.value)} as {meaning}: {reason}", self.origin(node), keys
            ) from None

    def check_text(self, node: Node, keys: Keys) -> None:
        """Raise if no file, no terminal and no JSON could hold the node's text."""
        wrong = unwritable_character(node.value)
        if wrong is not None:
            raise _error(
                f"{shortened(node.value)} has the character U+{ord(wrong):04X}", self.origin(node), keys,
                allowed="text without NUL and without halves of surrogate pairs",
            )  # fmt: skip

    def is_include(self, node: Node) -> bool:
        """Whether the node includes another file. Raises for other tags than those of plain data."""
        if node.tag == "!include" and self.files:
            return True
        expected = {
            MappingNode: {"map"}, SequenceNode: {"seq"}, ScalarNode: {"str", "merge", "null", "bool", "int", "float"}
        }[type(node)]  # fmt: skip
        if str(node.tag).removeprefix(_TAG) not in expected:
            raise _error(f"the tag {node.tag!r} is not allowed here", self.origin(node), allowed="!include FILE")
        return False

    def mapping(self, node: MappingNode, keys: Keys, constructor: Any, overridden: AbstractSet[str]) -> dict[str, Any]:
        """The node's mapping without the `overridden` keys: a key beside a `<<` wins over a merged one."""
        result: dict[str, Any] = {}
        merged: list[Node] = []
        for key_node, value_node in node.value:
            origin = self.origin(key_node)
            if not isinstance(key_node, ScalarNode) or self.is_include(key_node):
                raise _error("a key must be a single word", origin, keys)
            if key_node.tag == f"{_TAG}merge":
                merged += value_node.value if isinstance(value_node, SequenceNode) else [value_node]
                continue
            self.check_text(key_node, keys)
            key = key_node.value
            if key in result:
                first = self.locations[(*keys, key)]
                raise _error(f"the key is repeated (first at {first})", origin, (*keys, key), do="Remove one of them.")
            if key not in overridden:
                self.locations[(*keys, key)] = origin
                result[key] = self.value(value_node, (*keys, key), constructor)
        for other in merged:
            mapping = self.value(other, keys, constructor, overridden | result.keys())
            if not isinstance(mapping, dict):
                raise _error("`<<` merges mappings only", self.origin(other), keys)
            result = {**mapping, **result}
        return result

    def included(self, node: Node, keys: Keys, origin: str, overridden: AbstractSet[str]) -> Any:
        if not isinstance(node, ScalarNode) or not node.value:
            raise _error("!include needs the name of a file", origin, keys)
        self.check_text(node, keys)
        path = self.files[-1].parent / node.value
        if os.path.realpath(path) in map(os.path.realpath, self.files):
            chain = " -> ".join(file.name for file in [*self.files, path])
            raise _error(f"the files include each other: {chain}", origin, keys)
        if len(self.files) >= _MAX_DEPTH:
            raise _error(f"files include each other {_MAX_DEPTH} deep", origin, keys)
        return self.read(path, keys, origin, overridden)

    def syntax_error(self, error: Exception, text: str) -> UserError:
        """The error for text that is not YAML, with its line."""
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if isinstance(error, MaxDepthExceededError | RecursionError):
            problem = f"nested more than {_MAX_DEPTH} deep"
        if isinstance(error, ReaderError):
            line = text.count("\n", 0, error.position) + 1
            problem = f"the character U+{ord(text[error.position]):04X} is not allowed"
        if not self.files:
            return UserError(f"{shortened(text)} is not YAML: {problem}")
        return _error(
            f"this is not YAML: {problem}",
            f"{self.files[-1]}:{line}" if line else str(self.files[-1]),
            do="Look at the indentation, the colons and the quotes around this line.",
        )


def _text_of(path: Path) -> str:
    try:
        size = check_regular_file(path).st_size
        if size > _MAX_BYTES:
            raise UserError(f"{path} has {size:,} bytes", allowed=f"at most {_MAX_BYTES:,}")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"cannot read {path}: {reason}") from None
    except UserError as error:
        if not os.path.lexists(path) and os.path.isdir(path.parent):
            error.allowed = ", ".join(sorted(file.name for file in path.parent.glob("*.y*ml"))) or None
        raise


def _error(problem: str, origin: str, keys: Keys = (), allowed: str | None = None, do: str | None = None) -> UserError:
    error = UserError(problem, allowed=allowed, do=do, path=keys)
    error.location = origin or None
    return error
