"""The base of every schema, and pydantic's errors in a user's words."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import isfinite
from operator import or_
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from stitching.config.errors import UserError, did_you_mean, nearest, shortened
from stitching.config.plugins import load_plugins
from stitching.config.yaml import Document

__all__ = ["Neutral", "OrText", "Schema", "complaint", "one_of", "square_as_side", "validated"]

S = TypeVar("S", bound="Schema")

LARGEST_NUMBER = 2**63 - 1  # tables have 64 bits
LONGEST_TEXT = 10_000


@dataclass(frozen=True)
class Neutral:
    """Declares, in a field's `Annotated`, the value with which a run computes what it did before the key existed.

    A key at its neutral value is as if it was not there: it does not change a run's identity. Without a declaration it
    is the field's default. When a default changes, the old one is to be declared, and runs that say nothing are new.
    """

    value: Any


class Schema(BaseModel):
    """A mapping in YAML: unknown keys are errors that offer the nearest known one.

    The docstring below a field describes it to editors and in the documentation.
    """

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=False, allow_inf_nan=False)
    open_to: ClassVar[str | None] = None  # what further keys are, for the few mappings that take any

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise complaint(f"expected a mapping with keys, found {_shown(data)}", ", ".join(cls.known_keys()))
        for key in data:
            if key in cls.model_fields:
                continue
            best = nearest(key, cls.known_keys())
            if cls.open_to and (best is None or not _looks_like(key, best)):
                continue
            hint = f"; did you mean {best!r}?" if best else ""
            raise complaint(f"unknown key {shortened(key)}{hint}", ", ".join(cls.known_keys()), key=key)
        # A key with nothing behind it means its default.
        return {key: value for key, value in data.items() if value is not None or cls._is_required(key)}

    @classmethod
    def _is_required(cls, key: str) -> bool:
        return key in cls.model_fields and cls.model_fields[key].is_required()

    @classmethod
    def neutral_value(cls, key: str) -> Any:
        """The value with which a known key makes no difference: the declared one, else its default, else None."""
        field = cls.model_fields[key]
        declared = [item.value for item in field.metadata if isinstance(item, Neutral)]
        if declared or field.is_required():
            return declared[0] if declared else None
        return field.get_default(call_default_factory=True)

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that a user may write."""
        return list(cls.model_fields)


def complaint(
    problem: str, allowed: str | None = None, *, do: str | None = None, key: str | None = None
) -> PydanticCustomError:
    """What a validator raises: `problem` is shown unchanged, at `key` if there is one."""
    context = {"problem": problem, "allowed": allowed, "do": do, "key": key}
    return PydanticCustomError("complaint", "{problem}", context)


def one_of(**schemas: Any) -> Any:
    """A field that may be written in several ways, told apart by type: `text`, `number`, `list` or `mapping`.

    A plain union would complain about every way that the user did not mean.
    """

    def way(value: Any) -> str | None:
        kinds = {str: "text", bool: "text", int: "number", float: "number", list: "list", dict: "mapping"}
        kind = kinds.get(type(value), "mapping" if isinstance(value, BaseModel) else "")
        return f"as-{kind}" if kind in schemas else None

    tagged = tuple(Annotated[schema, Tag(f"as-{kind}")] for kind, schema in schemas.items())
    return Annotated[
        reduce(or_, tagged), Discriminator(way, "one_of", f"expected {' or '.join(_WAYS[k] for k in schemas)}")
    ]


def square_as_side(value: Any) -> Any:
    """`[n, n]`, height and width, as n: the same square."""
    is_square = isinstance(value, list) and len(value) == 2 and value[0] == value[1]
    return value[0] if is_square else value


_WAYS = {"text": "a word", "number": "a whole number", "list": "a list", "mapping": "a mapping"}


def validated(schema: type[S], document: Document) -> S:
    """The document as an instance of `schema`, after the plugins that it names have been imported.

    Raises:
        UserError: the first thing that is wrong, with its file and line; further ones are listed below it.
    """
    _check_values(document)
    if "plugins" in schema.model_fields:
        load_plugins(document)
    try:
        return schema.model_validate(document.data)
    except ValidationError as error:
        problems = [document.locate(_user_error(details)) for details in error.errors(include_url=False)]
        first, *others = problems
        if others:
            also = "\n".join("  also " + str(other).replace("\n", "\n  ") for other in others[:20])
            first.do = f"{first.do}\n{also}" if first.do else also.lstrip()
        raise first from None


def _check_values(document: Document) -> None:
    """Raise for a value that nothing accepts, anywhere in the document, also in arguments of libraries."""
    to_check: list[tuple[tuple[str | int, ...], Any]] = [((), document.data)]
    while to_check:
        path, value = to_check.pop()
        if isinstance(value, dict):
            to_check += (((*path, key), item) for key, item in value.items())
            to_check += (((*path, key), key) for key in value)
        elif isinstance(value, list):
            to_check += (((*path, i), item) for i, item in enumerate(value))
        elif isinstance(value, float) and not isfinite(value):
            raise document.locate(UserError(f"expected a finite number, found {_shown(value)}", path=path))
        elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            allowed = f"whole numbers of at most 63 bits, up to {LARGEST_NUMBER}"
            raise document.locate(UserError(f"found {_shown(value)}", allowed=allowed, path=path))
        elif isinstance(value, str) and len(value) > LONGEST_TEXT:
            problem = f"found text of {len(value):,} characters, {shortened(value)}"
            raise document.locate(UserError(problem, allowed=f"at most {LONGEST_TEXT:,}", path=path))


def _user_error(details: ErrorDetails) -> UserError:
    path = tuple(part for part in details["loc"] if not str(part).startswith(("function-", "as-")))
    context = details.get("ctx", {})
    shown_input = _shown(details["input"])
    kind = details["type"]
    if kind == "complaint":
        key = context.get("key")
        return UserError(
            context["problem"],
            allowed=context.get("allowed"),
            do=context.get("do"),
            path=(*path, key) if key else path,
        )
    if kind == "missing":
        return UserError(f"the key {str(path[-1])!r} is missing", path=path[:-1], do=f"Add `{path[-1]}: ...` here.")
    if kind == "literal_error":
        choices = [choice.strip("' ") for choice in str(context["expected"]).replace(" or ", ", ").split(", ")]
        hint = did_you_mean(details["input"], choices) if isinstance(details["input"], str) else ""
        return UserError(f"found {shown_input}{hint}", allowed=", ".join(choices), path=path)
    expected = _EXPECTED.get(kind)
    if expected:
        return UserError(f"expected {expected}, found {shown_input}", path=path)
    message = details["msg"]
    return UserError(f"{message[0].lower()}{message[1:]}; found {shown_input}", path=path)


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
}


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    return f"{shortened(value)} ({_KINDS.get(type(value), type(value).__name__)})"


_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
}


def _looks_like(key: str, known_key: str) -> bool:
    """Whether `key` is more likely a typo of `known_key` than a name of its own."""
    import difflib

    return difflib.SequenceMatcher(None, key.lower(), known_key.lower()).ratio() >= 0.8


class OrText:
    """Declares, in a field's `Annotated`, that text may replace the mapping, for the schema that editors read."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}
