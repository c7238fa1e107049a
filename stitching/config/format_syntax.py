"""How YAML writes the format of a tensor, and what it may say about conversions between formats."""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, WithJsonSchema

from stitching.config.errors import UserError, shortened, unknown_name
from stitching.config.schema import Schema, complaint

__all__ = ["FORMAT_SIZES", "TUPLE", "ClassToken", "FormatField", "ReformatOptions", "parse_format"]

FORMAT_SIZES = {"img": "[C, H, W]", "bhwc": "[C, H, W]", "token": "[C, L]", "bert": "[C, L]", "vector": "[C]"}
TUPLE = "tuple"  # several tensors at once; of pieces of models only, and never converted
LARGEST_SIZE = 10**8  # numbers of one image in a format: 0.4 GB

ClassToken = Literal["zeros", "ones", "avg"]


def parse_format(value: Any) -> tuple[str, list[int | None] | None]:
    """Kind and size of a format as YAML has it: `img`, or `[img, [256, 56, 56]]` with [C, H, W], [C, L] or [C] as size.

    A size may leave the channels out: `[img, [14, 14]]`, `[img, 14]` for a square, `[bert, 196]`.

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
    numbers = [size] * max(1, count - 1) if type(size) is int else size  # `type`, as True is an int too
    if (
        not isinstance(numbers, list | tuple)
        or len(numbers) not in (count, max(1, count - 1))
        or not all(type(n) is int and n > 0 for n in numbers)
    ):
        raise UserError(
            f"the size of {kind!r} is {shortened(size)}",
            allowed=f"{FORMAT_SIZES[kind]}, {count} whole number{'s' * (count > 1)} above zero"
            + ("; also without C" if count > 1 else ""),
        )
    if prod(numbers) > LARGEST_SIZE:
        raise UserError(
            f"the size of {kind!r} is {shortened(size)}", allowed=f"at most {LARGEST_SIZE:,} numbers in all"
        )
    return kind, [*[None] * (count - len(numbers)), *numbers]


def _check_format(value: Any) -> Any:
    if value == TUPLE:
        return value
    try:
        parse_format(value)
    except UserError as error:
        raise complaint(error.problem, error.allowed) from None
    return value


_JSON = {
    "description": "A kind, or [kind, size] such as [img, [256, 56, 56]].",
    "anyOf": [
        {"enum": [*FORMAT_SIZES, TUPLE]},
        {
            "type": "array",
            "prefixItems": [
                {"enum": list(FORMAT_SIZES)},
                {
                    "anyOf": [
                        {"type": "array", "items": {"type": "integer", "minimum": 1}},
                        {"type": "integer", "minimum": 1},
                    ]
                },
            ],
            "minItems": 2,
            "maxItems": 2,
        },
    ],
}

FormatField = Annotated[str | list[Any], BeforeValidator(_check_format), WithJsonSchema(_JSON)]


_OTHER_WORDS = {"zeroes": "zeros", "mean": "avg"}
_CLASS_TOKEN_JSON = WithJsonSchema({"enum": [*get_args(ClassToken), *_OTHER_WORDS]})


def _class_token(value: Any) -> Any:
    return _OTHER_WORDS.get(value, value) if isinstance(value, str) else value


class ReformatOptions(Schema):
    """How formats are converted where there is a choice."""

    class_token: Annotated[ClassToken, BeforeValidator(_class_token), _CLASS_TOKEN_JSON] = "zeros"
    """How a new class token is made: of zeros (also `zeroes`), of ones, or as the mean over all positions (`mean`)."""
