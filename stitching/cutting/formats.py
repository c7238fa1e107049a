"""Formats: how a tensor lays out an image, and the result of a conversion between any two of them.

| kind   | shape        | size           |
| ------ | ------------ | -------------- |
| img    | (N, C, H, W) | (H, W)         |
| bhwc   | (N, H, W, C) | (H, W)         |
| token  | (N, L, C)    | L              |
| bert   | (N, P+L, C)  | L, P as prefix |
| vector | (N, C)       | none           |
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, prod
from typing import Any, get_args

from stitching.config.errors import UserError, unknown_name
from stitching.config.format_syntax import FORMAT_SIZES, TUPLE, ClassToken, parse_format

__all__ = ["CLASS_TOKENS", "TUPLE_GOES_INTO", "Format", "TupleFormat", "converted", "maps"]

CLASS_TOKENS: tuple[str, ...] = get_args(ClassToken)

TUPLE_GOES_INTO = (
    "behind a tuple, a Subnet that begins where these values cross: with `in_format: tuple`, or a list as `block_input`"
)

_SEQUENCES = ("token", "bert")

Map = tuple[int, int]


@dataclass(frozen=True)
class Format:
    """A layout, with a size or without.

    Attributes:
        kind: img, bhwc, token, bert or vector.
        channels: C, or None if open.
        size: (H, W) of img and bhwc, L of token and bert (prefix tokens do not count), None for a vector or if
            open.
        prefix: number of prefix tokens, e.g. 1 for a class token; of bert only.
    """

    kind: str
    channels: int | None = None
    size: Map | int | None = None
    prefix: int = 0

    def __post_init__(self) -> None:
        if self.prefix and self.kind != "bert":
            raise ValueError(f"{self.kind} has no prefix tokens, but prefix is {self.prefix}")

    @classmethod
    def parse(cls, value: Any) -> Format:
        """A format as YAML has it: `img`, or `[img, [256, 56, 56]]` with [C, H, W], [C, L] or [C] as the size.

        YAML cannot state the number of prefix tokens; a `bert` read from it has one.

        Raises:
            UserError: for an unknown kind, or a size that does not have the numbers of the kind.
        """
        if value == TUPLE:
            return TupleFormat()
        kind, numbers = parse_format(value)
        prefix = int(kind == "bert")
        if numbers is None:
            return cls(kind, prefix=prefix)
        channels, *sides = numbers
        rest = [side for side in sides if side is not None]
        size = (rest[0], rest[1]) if len(rest) == 2 else rest[0] if rest else None
        return cls(kind, channels, size, prefix)

    @classmethod
    def of(cls, kind: str, shape: tuple[int, ...], prefix: int = 0) -> Format:
        """The format of a tensor of `shape`, batch dimension included, that is laid out as `kind`.

        `prefix` counts for `bert` only.

        Raises:
            UserError: if no tensor of that kind has such a shape.
        """
        prefix = prefix if kind == "bert" else 0
        if len(shape) != FORMAT_SIZES[kind].count(",") + 2 or (kind in _SEQUENCES and shape[1] <= prefix):
            raise UserError(
                f"a tensor of shape {shape} is no {kind!r}" + (f" with {prefix} prefix tokens" if prefix else ""),
                allowed=f"one image in the batch and a size of {FORMAT_SIZES[kind]}",
            )
        if kind == "img":
            return cls(kind, shape[1], (shape[2], shape[3]))
        if kind == "bhwc":
            return cls(kind, shape[3], (shape[1], shape[2]))
        if kind == "vector":
            return cls(kind, shape[1])
        return cls(kind, shape[2], shape[1] - prefix, prefix)

    def to_yaml(self) -> str | list[Any]:
        """The reverse of `parse`: the kind alone if the format is not fully sized."""
        numbers = self._numbers
        return self.kind if None in numbers else [self.kind, list(numbers)]

    def shape(self, batch: int) -> tuple[int, ...]:
        """The shape of a tensor of `batch` images in this format, which must be fully sized."""
        numbers = self._numbers
        sized = tuple(n for n in numbers if n is not None)
        if len(sized) != len(numbers):
            raise ValueError(f"{self} is not fully sized")
        channels, *rest = sized
        if self.kind in ("img", "vector"):
            return (batch, *sized)
        if self.kind == "bert":
            rest = [rest[0] + self.prefix]
        return (batch, *rest, channels)

    @property
    def spatial(self) -> Map | None:
        """(H, W), also of a square number of tokens; None for a vector, for other sequences and if open."""
        if isinstance(self.size, int):
            side = isqrt(self.size)
            return (side, side) if side * side == self.size else None
        return self.size

    @property
    def _positions(self) -> int | None:
        """The number of positions: H x W, or L; None for a vector and if open."""
        return prod(self.size) if isinstance(self.size, tuple) else self.size

    @property
    def _numbers(self) -> tuple[int | None, ...]:
        """[C, H, W], [C, L] or [C], with None for what is open."""
        if self.kind == "vector":
            return (self.channels,)
        if self.kind in _SEQUENCES:
            return (self.channels, self.size if isinstance(self.size, int) else None)
        return (self.channels, *(self.size if isinstance(self.size, tuple) else (None, None)))

    def __str__(self) -> str:
        numbers = self._numbers
        if all(n is None for n in numbers):
            return self.kind
        size = "x".join("?" if n is None else str(n) for n in numbers)
        return f"{self.kind} {size}" + (f"+{self.prefix}" if self.kind == "bert" else "")


@dataclass(frozen=True)
class TupleFormat(Format):
    """Several tensors that cross a cut together, in no layout of ours.

    Attributes:
        shapes: of the tensors for one image, batch dimension included; none if open.
        images: (C, H, W) of the images that they are computed from, if a cut model says so.
    """

    kind: str = TUPLE
    shapes: tuple[tuple[int, ...], ...] = ()
    images: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape[1:])) for shape in self.shapes)
        return f"a tuple of {len(self.shapes)} tensors ({shapes})" if self.shapes else self.kind


def converted(src: Format, dst: Format, class_token: str = "zeros") -> Format:
    """The format of a tensor of format `src` after its conversion to `dst`.

    Args:
        src: the format before, with its size.
        dst: the format to convert to; without a size it takes that of `src`. Its channels are ignored, as a conversion
            cannot choose them: the result has those of `src`, or twice as many if a class token is spread.
        class_token: what a new prefix token is: zeros, ones, or avg, the mean over all positions.

    Raises:
        UserError: if tokens cannot be laid out as a map, a vector would have to fill one, one of both is a tuple, or
            `class_token` is unknown.
    """
    if TUPLE in (src.kind, dst.kind):
        if src.kind != dst.kind:
            raise UserError(f"{src} cannot become {dst}: a tuple is never converted", allowed=TUPLE_GOES_INTO)
        return src
    if class_token not in CLASS_TOKENS:
        raise unknown_name("class_token", class_token, CLASS_TOKENS)
    channels = src.channels
    if dst.kind == "vector":
        return Format("vector", channels)
    _, size = maps(src, dst)
    if dst.kind == "bert":
        return Format("bert", channels, prod(size), _prefix(src, dst))
    if dst.kind == "token":
        return Format("token", channels, prod(size))
    if channels is not None and src.prefix:
        channels *= 2
    return Format(dst.kind, channels, size)


def _prefix(src: Format, dst: Format) -> int:
    """The number of prefix tokens of a `bert` after conversion: those of `src`, and new ones up to those of `dst`."""
    return max(src.prefix, dst.prefix, int(src.kind != "bert"))


def maps(src: Format, dst: Format) -> tuple[Map, Map]:
    """The size of the map that the positions of `src` form, and the size to resize it to."""
    if src.kind == TUPLE:
        return (1, 1), (1, 1)
    if src.kind == "vector":
        if dst._positions not in (None, 1):
            raise UserError(
                f"{src} cannot become {dst}: a vector has nothing to fill {dst._positions} positions with",
                do="Leave the size out (a vector becomes one position), or cut the network before its pooling.",
            )
        return (1, 1), (1, 1)
    size, count = src.spatial, src._positions
    if count is None:
        raise ValueError(f"{src} is not fully sized")
    if dst.kind in (*_SEQUENCES, "vector") and dst.size in (None, count):
        # Tokens whose number stays, or that are averaged, need no map: treat them as a column.
        size = new_size = (count, 1) if src.kind in _SEQUENCES else size
    elif src.kind in _SEQUENCES and isinstance(dst.size, tuple) and dst._positions == count:
        size = new_size = dst.size
    else:
        new_size = size if dst.size is None else dst.spatial
    if size is None:
        raise UserError(
            f"{src} cannot become {dst}: {count} tokens are no square map",
            do=f"Name their map in an out_format before this one, e.g. [img, [C, H, W]] with H x W = {count}.",
        )
    if new_size is None:
        raise UserError(
            f"{src} cannot become {dst}: an image can be resized to a square number of tokens only",
            do="Ask for a square number of tokens, or for a map, e.g. [img, [C, H, W]], before this format.",
        )
    return size, new_size
