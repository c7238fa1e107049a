"""The parts of Deep Model Reassembly (Yang et al., 2022), kept so that configs written for it load."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stitching.config.errors import UserError, unknown_name

__all__ = ["FUNCTIONS", "BaseBlock", "DeRyAdapter", "Function"]

MODES = ("cnn2cnn", "cnn2vit", "vit2cnn", "vit2vit")


class DeRyAdapter(nn.Module):
    """Norm, then convolutions on the map, then linear layers on its positions, each with norm and LeakyReLU(0.1).

    A `cnn` side is an image (N, C, H, W), a `vit` side a sequence (N, L, C) of a square number of tokens where it
    has to be a map. A convolution's kernel is as large as its stride and it has no padding, so windows do not overlap.

    Args:
        input_channel, output_channel: channels of what arrives and of what leaves; the first layer goes from one to the
            other.
        num_conv, num_fc: how many convolutions without bias, and linear layers.
        stride: of the first convolution; the others are 1x1.
        mode: what arrives and what leaves: cnn2cnn, cnn2vit, vit2cnn or vit2vit.

    Raises:
        UserError: if the mode is unknown, the stride has no convolution, or no layer changes the channels.
    """

    def __init__(
        self,
        *,
        input_channel: int,
        output_channel: int,
        num_fc: int = 0,
        num_conv: int = 0,
        stride: int = 1,
        mode: str = "cnn2cnn",
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES, path=("mode",))
        if not num_conv and not num_fc and input_channel != output_channel:
            raise UserError(
                f"no layer makes {output_channel} channels of {input_channel}", do="Give num_conv or num_fc."
            )
        if not num_conv and stride != 1:
            raise UserError(
                f"a stride of {stride} needs a convolution", do="Give num_conv, or leave it out.", path=("stride",)
            )
        self.in_kind, self.out_kind = ("img" if side == "cnn" else "token" for side in mode.split("2"))

        convs: list[nn.Module] = [nn.BatchNorm2d(input_channel)] if num_conv else []
        fcs: list[nn.Module] = [] if num_conv else [nn.LayerNorm(input_channel)]
        for i in range(num_conv):
            fan_in, side = (output_channel, 1) if i else (input_channel, stride)
            conv = nn.Conv2d(fan_in, output_channel, side, side, bias=False)
            convs += [conv, nn.BatchNorm2d(output_channel), nn.LeakyReLU(0.1)]
        for i in range(num_fc):
            fan_in = output_channel if i or num_conv else input_channel
            fcs += [nn.Linear(fan_in, output_channel), nn.LayerNorm(output_channel), nn.LeakyReLU(0.1)]
        self.convs, self.fcs = nn.Sequential(*convs), nn.Sequential(*fcs)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.convs):
            x = self.convs(_as_map(x))
        if len(self.fcs):
            # Channels last, whether the positions are a map or a sequence.
            x = self.fcs(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if x.dim() == 4 else self.fcs(x)
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


class BaseBlock(nn.Module):
    """Convolution, BatchNorm, ReLU: (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""

    in_kind = "img"
    out_kind = "img"

    def __init__(self, *, in_channels: int, out_channels: int, stride: int = 1, kernel_size: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def _global_avg_pool(x: Tensor) -> Tensor:
    """The mean over the positions of an image (N, C, H, W) or a sequence (N, L, C); a vector as it is."""
    if x.dim() == 2:
        return x
    return x.mean((2, 3)) if x.dim() == 4 else x.mean(1)


# What may stand in a config as `Function: {name: ...}`, and whether a vector comes out.
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


class Function(nn.Module):
    """A function without parameters, by its name in `FUNCTIONS`. Pooling takes four dimensions as an `img`;
    the others work on any format.

    `out_kind` is `same` for those that keep the format, else `vector`.

    Raises:
        UserError: if there is no such function.
    """

    in_kind = "same"

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
