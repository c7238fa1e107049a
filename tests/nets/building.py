"""Modules of single parts, built as a network builds them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from stitching.nets.parts import PARTS, BuildOptions, Format

SIZES = {"img": (14, 14), "bhwc": (14, 14), "token": 196, "bert": 196, "vector": None}


def build(name: str, in_channels: int, *, options: BuildOptions = BuildOptions(), **arguments: Any) -> Any:  # noqa: B008
    """The module of the part `name` with these arguments where so many channels arrive."""
    part: Any = PARTS[name].model_validate(arguments)
    native = part.native_format(options) or Format("img")
    module: nn.Module = part.build(replace(native, channels=in_channels, size=SIZES[native.kind]), options)
    return module


def builder(name: str) -> Any:
    """`build` of one part, which takes the channels that arrive by their name."""
    return partial(build, name)
