"""The base classes of parts: a schema, the format that the part works on, and how its module is built."""

from __future__ import annotations

from abc import abstractmethod
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

__all__ = ["BuildOptions", "BuildablePart", "ChannelsPart", "check_channels", "declared_kind", "initialize_adapter"]


@dataclass(frozen=True)
class BuildOptions:
    """What building a network depends on beside its parts."""

    seed: int = 0
    num_classes: int | None = None
    task_classes: tuple[int, ...] = ()  # of each task, if the network has several outputs
    class_token: Literal["zeros", "ones", "avg"] = "zeros"
    frozen_norm: Literal["running", "batch"] = "running"
    adapter_init: Literal["default", "published"] = "default"
    norm_groups: int = 32  # of GroupNorm in adapters, or as many of them as divide the channels (Wu & He, 2018)
    unfrozen: bool = False  # train all parts, frozen ones too
    meta: bool = False  # shapes only: no weights, no memory
    sample: ImageSample | None = None  # of the data, for random networks
    images: Shape3 | None = None  # (C, H, W) of the data; `build_network` sets it


class BuildablePart(BasePart):
    """A part that can be built: the base class of all registered parts.

    The fields of a subclass are the part's arguments in YAML.

    Attributes:
        works_on: kind of format that the module takes (img, bhwc, token, bert, vector). Inputs are converted to it.
            None: any.
        bounds_itself: whether the size of the module is checked elsewhere, so that it cannot fill the memory.
    """

    works_on: ClassVar[str | None] = None
    bounds_itself: ClassVar[bool] = False

    def native_format(self, options: BuildOptions) -> Format | None:
        """The format that the module takes: `works_on`, unless a subclass derives it from its arguments."""
        return Format(self.works_on, prefix=int(self.works_on == "bert")) if self.works_on else None

    @abstractmethod
    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        """The module, for inputs of the fully sized format `input_format`.

        Its output is assumed to have the kind of its input if it has as many dimensions, else to be a vector. Other
        modules have an attribute `out_kind` (and for bert `out_prefix`, the number of prefix tokens).
        """

    def in_front_of(self, following: Sequence[BasePart], input_format: Format, options: BuildOptions) -> BasePart:
        """The part as it is built when the parts of `following` come after it in a row."""
        return self


class ChannelsPart(BuildablePart):
    """A part that may change the number of channels."""

    in_channels: Channels | None = None
    """Input channels, to have them checked."""
    out_channels: Channels | None = None
    """Output channels; by default the input's."""

    def channels(self, input_format: Format) -> tuple[int, int]:
        """Input and output channels. Raises `UserError` if `in_channels` are not those of the input."""
        with at("in_channels"):
            check_channels(self.in_channels, input_format, "the part takes")
        in_channels = self.in_channels or input_format.channels
        assert in_channels is not None
        return in_channels, self.out_channels or in_channels


def initialize_adapter(module: nn.Module, options: BuildOptions) -> None:
    """Start the weights of a trained part as the job's `adapter_init` says; `default` leaves them as torch made them.

    `published`: weights of convolutions and linear layers from Kaiming's normal distribution by the fan out (He et al.,
    2015). Biases and norms stay.
    """
    if options.adapter_init == "published":
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def check_channels(declared: int | None, input_format: Format, subject: str) -> None:
    """Raise a `UserError` that begins with `subject` if the declared channels are not those of the input."""
    if declared is not None and input_format.channels is not None and declared != input_format.channels:
        raise UserError(f"{subject} {declared} channels, but the input is {input_format}")


def declared_kind(part: BasePart, kinds: Sequence[str]) -> Any:
    """The kind that the part's `in_format` declares, by default the first of `kinds`."""
    declared = part.in_format[0] if isinstance(part.in_format, list) else part.in_format
    if declared is not None and declared not in kinds:
        raise UserError(
            f"{part.kind} works on {kinds[0]}, in_format is {declared}", allowed=", ".join(kinds), path=("in_format",)
        )
    return declared or kinds[0]
