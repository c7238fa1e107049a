"""Bounds of the numbers in a config: far beyond real use, and below what would fill the memory.

A typo (`out_channels: 1e12`, a seed of 22 digits) is an error at once, with its line. Without a bound it would become
an overflow somewhere in torch, a process that the system kills, or an endless loop.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

__all__ = [
    "Blocks",
    "Channels",
    "Classes",
    "Count",
    "Downsamplings",
    "Epochs",
    "Heads",
    "Kernel",
    "Layers",
    "PathText",
    "Pixels",
    "Positive",
    "Probability",
    "Ratio",
    "Seed",
    "Workers",
]  # fmt: skip

Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a table of results has 64 bits for it
Count = Annotated[int, Field(ge=1, le=10**9)]  # of steps, batches, images or minutes
Epochs = Annotated[int, Field(ge=0, le=100_000)]
Workers = Annotated[int, Field(ge=0, le=256)]  # processes
Pixels = Annotated[int, Field(ge=1, le=4096)]  # on a side of an image
Channels = Annotated[int, Field(ge=1, le=65_536)]
Classes = Annotated[int, Field(ge=1, le=100_000)]
Layers = Annotated[int, Field(ge=0, le=100)]  # of one part
Kernel = Annotated[int, Field(ge=1, le=255)]  # the sides and strides of convolutions and windows
Heads = Annotated[int, Field(ge=1, le=1024)]
Blocks = Annotated[int, Field(ge=0, le=10_000)]  # of one model
Downsamplings = Annotated[int, Field(ge=0, le=32)]  # each halves a side
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
PathText = Annotated[str, Field(min_length=1)]  # an empty path would count as none, and its network get random weights
Probability = Annotated[float, Field(ge=0, lt=1)]
