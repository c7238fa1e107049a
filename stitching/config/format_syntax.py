"""How YAML writes the format of a tensor, and what it may say about conversions between formats."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

from stitching.config.errors import UserError, shortened, unknown_name
from stitching.config.schema import Schema, complaint

__all__ = ["FORMAT_SIZES", "ClassToken", "FormatField", "ReformatOptions", "parse_format"]

FORMAT_SIZES = {"img": "[C, H, W]", "bhwc": "[C, H, W]", "token": "[C, L]", "bert": "[C, L]", "vector": "[C]"}
LARGEST_SIZE = 10**8  # numbers of one image in a format: 0.4 GB

ClassToken = Literal["zeros", "ones", "avg"]


def parse_format(value: Any) -> tuple[str, list[int] | None]:
    """Kind and size of a format as YAML has it: `img`, or `[img, [256, 56, 56]]` with [C, H, W], [C, L] or [C] as size.

    Raises:
        UserError: if there is no such kind, or the size has not the numbers that the kind needs.
    """
    kind, size = value, None
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise UserError(
                f"{shortened(value)} is no format", allowed="a kind, or [kind, size], e.g. [img, [256, 56, 56]]"
            )
        kind, size = value
    if not isinstance(kind, str) or kind not in FORMAT_SIZES:
        error = unknown_name("format", kind, FORMAT_SIZES)
        error.allowed = f"{', '.join(FORMAT_SIZES)}, alone or with a size: [img, [256, 56, 56]], [bert, [384, 196]]"
        raise error
    if size is None:
        return kind, None
    count = FORMAT_SIZES[kind].count(",") + 1
    if (
        not isinstance(size, list | tuple)
        or len(size) != count
        or not all(type(n) is int and n > 0 for n in size)  # `type`, as True is an int too
    ):
        raise UserError(
            f"the size of {kind!r} is {shortened(size)}",
            allowed=f"{FORMAT_SIZES[kind]}, {count} whole number{'s' * (count > 1)} above zero",
        )
    if prod(size) > LARGEST_SIZE:
        raise UserError(
            f"the size of {kind!r} is {shortened(size)}", allowed=f"at most {LARGEST_SIZE:,} numbers in all"
        )
    return kind, list(size)


def _check_format(value: Any) -> Any:
    try:
        parse_format(value)
    except UserError as error:
        raise complaint(error.problem, error.allowed) from None
    return value


_JSON = {
    "description": "A kind, or [kind, size] such as [img, [256, 56, 56]].",
    "anyOf": [
        {"enum": list(FORMAT_SIZES)},
        {
            "type": "array",
            "prefixItems": [
                {"enum": list(FORMAT_SIZES)},
                {"type": "array", "items": {"type": "integer", "minimum": 1}},
            ],
            "minItems": 2,
            "maxItems": 2,
        },
    ],
}

FormatField = Annotated[str | list[Any], BeforeValidator(_check_format), WithJsonSchema(_JSON)]


class ReformatOptions(Schema):
    """How formats are converted where there is a choice."""

    class_token: ClassToken = "zeros"
    """How a new class token is made: of zeros, of ones, or as the mean over all positions."""
