"""The parts of Deep Model Reassembly (Yang et al., 2022), kept so that configs written for it load."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import isqrt
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from stitching.config.bounds import Channels, Kernel, Layers
from stitching.config.errors import UserError, at, unknown_name
from stitching.config.parts import PARTS
from stitching.config.registries import NameIn
from stitching.cutting.formats import Format
from stitching.nets.buildable import BuildablePart, BuildOptions, ChannelsPart, check_channels, initialize_adapter

__all__ = ["FUNCTIONS", "BaseBlock", "BaseBlockPart", "DeRyAdapter", "DeRyAdapterPart", "Function", "FunctionPart"]


@PARTS.register("DeRyAdapter")
class DeRyAdapterPart(BuildablePart):
    """Norm, then convolutions on the map, then linear layers on its positions, then a LeakyReLU(0.1).

    Layers have no bias. A convolution's kernel is as large as its stride and it has no padding: windows do not overlap.
    """

    revision: ClassVar[int] = 2  # one nonlinearity at the end; no norms behind layers, no biases

    input_channel: Channels | None = None
    """Input channels, to have them checked."""
    output_channel: Channels | None = None
    """Output channels; by default the input's."""
    num_fc: Layers = 0
    """Number of linear layers."""
    num_conv: Layers | None = None
    """Number of convolutions; by default one, or none where there are linear layers."""
    stride: Kernel = 1
    """Stride of the first convolution; the others are 1x1."""
    mode: Literal["cnn2cnn", "cnn2vit", "vit2cnn", "vit2vit"] = "cnn2cnn"
    """Input and output: `cnn` is an image, `vit` a sequence of a square number of tokens."""

    @model_validator(mode="after")
    def _default_layers(self) -> Self:
        if self.num_conv is None:
            self.num_conv = 0 if self.num_fc else 1
        return self

    @property
    def kinds(self) -> tuple[str, str]:
        """The formats of input and output."""
        first, last = ("img" if side == "cnn" else "token" for side in self.mode.split("2"))
        return first, last

    def native_format(self, options: BuildOptions) -> Format:
        return Format(self.kinds[0])

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        with at("input_channel"):
            check_channels(self.input_channel, input_format, "the part takes")
        in_channels = self.input_channel or input_format.channels
        assert in_channels is not None
        adapter = DeRyAdapter(self, in_channels, self.output_channel or in_channels)
        initialize_adapter(adapter, options)
        return adapter


class DeRyAdapter(nn.Module):
    """The layers of a `DeRyAdapterPart`: all of them in `adapter`, in order.

    A `cnn` side is an image (N, C, H, W), a `vit` side a sequence (N, L, C), of a square number of tokens if it has to
    become a map. The first layer goes from `in_channels` to `out_channels`.

    Raises:
        UserError: if the stride has no convolution, or no layer changes the channels.
    """

    def __init__(self, part: DeRyAdapterPart, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if not part.num_conv and not part.num_fc and in_channels != out_channels:
            raise UserError(f"no layer maps {in_channels} channels to {out_channels}", do="Set num_conv or num_fc.")
        if not part.num_conv and part.stride != 1:
            raise UserError(
                f"a stride of {part.stride} needs a convolution",
                do="Set num_conv, or omit stride.",
                path=("stride",),
            )
        self.out_kind, self.num_conv = part.kinds[1], part.num_conv or 0
        layers: list[nn.Module] = [nn.BatchNorm2d(in_channels) if self.num_conv else nn.LayerNorm(in_channels)]
        widths = [in_channels] + [out_channels] * (self.num_conv + part.num_fc)
        for number, (fan_in, fan_out) in enumerate(pairwise(widths)):
            side = part.stride if number == 0 else 1
            if number < self.num_conv:
                layers.append(nn.Conv2d(fan_in, fan_out, side, side, bias=False))
            else:
                layers.append(nn.Linear(fan_in, fan_out, bias=False))
        self.adapter = nn.Sequential(*layers, nn.LeakyReLU(0.1))

    def forward(self, x: Tensor) -> Tensor:
        on_map = self.num_conv + 1 if self.num_conv else 0  # the norm and the convolutions
        if on_map:
            x = self.adapter[:on_map](_as_map(x))
        # Channels last, whether the positions are a map or a sequence.
        is_map = x.dim() == 4
        x = self.adapter[on_map:](x.permute(0, 2, 3, 1) if is_map else x)
        x = x.permute(0, 3, 1, 2) if is_map else x
        if self.out_kind == "img":
            return _as_map(x)
        return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def _as_map(x: Tensor) -> Tensor:
    """A square number of tokens (N, L, C) as a map (N, C, H, W); a map as it is."""
    if x.dim() == 4:
        return x
    side = isqrt(x.shape[1])
    if side * side != x.shape[1]:
        raise ValueError(f"{x.shape[1]} tokens are no square map")
    return x.transpose(1, 2).unflatten(2, (side, side))


@PARTS.register("BaseBlock")
class BaseBlockPart(ChannelsPart):
    """The stem of ResNets as published for it: 7x7 convolution with stride 2, BatchNorm, ReLU, max pooling by 2."""

    works_on: ClassVar[str | None] = "img"
    revision: ClassVar[int] = 2  # the pooling, and other defaults

    stride: Kernel = 2
    """Stride of the convolution."""
    kernel_size: Kernel = 7
    """Side of its kernel."""

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        return BaseBlock(self, *self.channels(input_format))


class BaseBlock(nn.Module):
    """The layers of a `BaseBlockPart`: (N, in_channels, H, W) to (N, out_channels, H / stride / 2, W / stride / 2)."""

    def __init__(self, part: BaseBlockPart, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, part.kernel_size, part.stride, part.kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _global_avg_pool(x: Tensor) -> Tensor:
    """The mean over the positions of an image (N, C, H, W) or a sequence (N, L, C); a vector as it is."""
    if x.dim() == 2:
        return x
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1)


# The functions that a config may name as `Function: {name: ...}`, and whether their output is a vector.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "identity": (lambda x: x, False),
    "relu": (F.relu, False),
    "leaky_relu": (F.leaky_relu, False),
    "gelu": (F.gelu, False),
    "silu": (F.silu, False),
    "sigmoid": (torch.sigmoid, False),
    "tanh": (torch.tanh, False),
    "flatten": (lambda x: x.flatten(1), True),
    "global_avg_pool": (_global_avg_pool, True),
}


@PARTS.register("Function")
class FunctionPart(BuildablePart):
    """A function without parameters."""

    name: Annotated[str, NameIn("stitching.nets.parts.dery:FUNCTIONS")]
    """The function."""

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        return Function(self.name)


class Function(nn.Module):
    """A function without parameters, by its name in `FUNCTIONS`. Pooling takes four dimensions as an `img`;
    the others work on any format.

    `out_kind` is `same` for those that keep the format, else `vector`.

    Raises:
        UserError: if there is no such function.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in FUNCTIONS:
            raise unknown_name("function", name, FUNCTIONS, path=("name",))
        self.name = name
        self.out_kind = "vector" if FUNCTIONS[name][1] else "same"

    def forward(self, x: Tensor) -> Tensor:
        return FUNCTIONS[self.name][0](x)

    def extra_repr(self) -> str:
        return self.name
