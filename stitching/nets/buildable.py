"""What a part has beside its schema: the format that it works on, and how its module is built for what arrives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from stitching.config.bounds import Channels
from stitching.config.errors import UserError, at
from stitching.config.parts import BasePart
from stitching.cutting.formats import Format
from stitching.cutting.tracing import Shape3
from stitching.models.random_networks import ImageSample

__all__ = ["BuildOptions", "BuildablePart", "ChannelsPart", "check_channels", "declared_kind"]


@dataclass(frozen=True)
class BuildOptions:
    """What building a network needs to know beside its parts."""

    seed: int = 0
    num_classes: int | None = None
    task_classes: tuple[int, ...] = ()  # of each task, where the network has several outputs
    class_token: Literal["zeros", "ones", "avg"] = "zeros"
    frozen_norm: Literal["running", "batch"] = "running"
    unfrozen: bool = False  # train everything, whatever the parts say
    meta: bool = False  # shapes only: no weights, no memory
    sample: ImageSample | None = None  # of the data, for random networks
    images: Shape3 | None = None  # (C, H, W) of the data; `build_network` sets it


class BuildablePart(BasePart):
    """A part that can be built: base of every class in the registry of parts.

    The fields of a subclass are the part's arguments in YAML.

    Attributes:
        works_on: kind of format that the module takes (img, bhwc, token, bert, vector). What arrives is converted to
            it. None: whatever arrives.
        bounds_itself: whether something else sees to it that the module does not fill the memory.
    """

    works_on: ClassVar[str | None] = None
    bounds_itself: ClassVar[bool] = False

    def native_format(self, options: BuildOptions) -> Format | None:
        """The format that the module takes, if that depends on the arguments; else it is `works_on`."""
        return Format(self.works_on, prefix=int(self.works_on == "bert")) if self.works_on else None

    def build(self, arriving: Format, options: BuildOptions) -> nn.Module:
        """The module, for inputs of the fully sized format `arriving`.

        Its output is laid out like its input if it has as many dimensions, else it is a vector. A module for which
        this is not so has an attribute `out_kind` (and for bert `out_prefix`, the number of prefix tokens).
        """
        raise NotImplementedError(f"{type(self).__name__}.build")

    def in_front_of(self, following: Sequence[BasePart], arriving: Format, options: BuildOptions) -> BasePart:
        """The part as it is to be built where the parts of `following` come behind it in a row."""
        return self


class ChannelsPart(BuildablePart):
    """A part that may change the number of channels."""

    in_channels: Channels | None = None
    """Channels of what arrives, to have them checked."""
    out_channels: Channels | None = None
    """Channels of what leaves; by default those that arrive."""

    def channels(self, arriving: Format) -> tuple[int, int]:
        """Channels of what arrives and of what leaves. Raises `UserError` if `in_channels` says something else."""
        with at("in_channels"):
            check_channels(self.in_channels, arriving, "the part takes")
        in_channels = self.in_channels or arriving.channels
        assert in_channels is not None
        return in_channels, self.out_channels or in_channels


def check_channels(declared: int | None, arriving: Format, words: str) -> None:
    """Raise a `UserError` that begins with `words` if the channels that are declared are not those that arrive."""
    if declared is not None and arriving.channels is not None and declared != arriving.channels:
        raise UserError(f"{words} {declared} channels, but {arriving} arrives")


def declared_kind(part: BasePart, kinds: Sequence[str]) -> Any:
    """The one of the kinds that the part's `in_format` declares, else the first of them."""
    declared = part.in_format[0] if isinstance(part.in_format, list) else part.in_format
    if declared is not None and declared not in kinds:
        raise UserError(
            f"{part.kind} works on {kinds[0]}, in_format is {declared}", allowed=", ".join(kinds), path=("in_format",)
        )
    return declared or kinds[0]
