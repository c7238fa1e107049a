"""The residual blocks of ResNets as adapters."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import ClassVar, Literal

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from stitching.config.bounds import Kernel
from stitching.config.parts import PARTS
from stitching.cutting.formats import Format
from stitching.nets.buildable import BuildOptions, ChannelsPart

__all__ = ["ResNetBasicBlockPart", "ResNetBottleneckPart", "ResidualBlock"]

# GroupNorm has 32 groups (Wu & He, 2018), or as many of them as divide the channels. LayerNorm is over the channels of
# each position, as in ConvNeXt.
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "gn": lambda channels: nn.GroupNorm(gcd(32, channels), channels),
    "ln": LayerNorm2d,
    "in": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


class ResNetBlockPart(ChannelsPart):
    """Arguments of both residual blocks."""

    works_on: ClassVar[str | None] = "img"

    stride: Kernel = 1
    """Stride of the block: of the basic block's first convolution, of the bottleneck's 3x3 convolution."""
    norm_type: Literal["bn", "gn", "ln", "in"] = "bn"
    """BatchNorm, GroupNorm (32 groups, or as many of them as divide the channels), LayerNorm over the channels of each
    position, or InstanceNorm.
    """
    init_identity: bool = True
    """Start as the identity, exactly if channels and size stay; otherwise it copies what fits."""


@PARTS.register("ResNetBasicBlock")
class ResNetBasicBlockPart(ResNetBlockPart):
    """Two 3x3 convolutions with a shortcut (He et al., 2015), without the ReLU after the sum."""

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        in_channels, out_channels = self.channels(input_format)
        return ResidualBlock(self, [in_channels, out_channels, out_channels], [3, 3], [self.stride, 1])


@PARTS.register("ResNetBottleneck")
class ResNetBottleneckPart(ResNetBlockPart):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, a quarter of `out_channels` wide, without the ReLU after the sum.

    The stride is the 3x3 convolution's, as in torchvision ("ResNet V1.5").
    """

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        in_channels, out_channels = self.channels(input_format)
        width = max(1, out_channels // 4)
        return ResidualBlock(self, [in_channels, width, width, out_channels], [1, 3, 1], [1, self.stride, 1])


class ResidualBlock(nn.Module):
    """Shortcut plus a branch of convolutions, each with a norm, with ReLUs between them.

    There is no ReLU after the sum, where He et al. (2015) have one: it would cut off negative values, and the block
    could not start as the identity. Where the shape changes the shortcut is a 1x1 convolution.

    Args:
        part: its arguments. With its `init_identity` the last norm's weight is zero, so the branch adds nothing, and
            a shortcut convolution copies the channels that input and output share (the others are zero).
        widths: channels before, between and after the convolutions.
        kernels, strides: of the convolutions.
    """

    def __init__(self, part: ResNetBlockPart, widths: list[int], kernels: list[int], strides: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out, kernel, stride in zip(widths[:-1], widths[1:], kernels, strides, strict=True):
            norm = _NORMS[part.norm_type](fan_out)
            conv = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False)
            layers += [conv, norm, nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        stride = max(strides)
        if widths[0] != widths[-1] or stride != 1:
            self.shortcut = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)
        if part.init_identity:
            nn.init.zeros_(norm.weight)  # type: ignore[arg-type]
            if isinstance(self.shortcut, nn.Conv2d):
                nn.init.dirac_(self.shortcut.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)
