"""The residual blocks of ResNets as adapters."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from stitching.config.bounds import Kernel
from stitching.config.parts import PARTS
from stitching.cutting.formats import Format
from stitching.nets.buildable import BuildOptions, ChannelsPart, initialize_adapter

__all__ = ["ResNetBasicBlockPart", "ResNetBottleneckPart", "ResidualBlock"]

# Each from the number of channels and of GroupNorm's groups. LayerNorm is over the channels of each position, as in
# ConvNeXt.
_NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "bn": lambda channels, groups: nn.BatchNorm2d(channels),
    "gn": lambda channels, groups: nn.GroupNorm(gcd(groups, channels), channels),
    "ln": lambda channels, groups: LayerNorm2d(channels),
    "in": lambda channels, groups: nn.InstanceNorm2d(channels, affine=True),
}
_SHORT_NAMES = {"batchnorm": "bn", "groupnorm": "gn", "layernorm": "ln", "instancenorm": "in"}
NormName = Annotated[
    Literal["bn", "gn", "ln", "in", "batchnorm", "groupnorm", "layernorm", "instancenorm"],
    AfterValidator(lambda name: _SHORT_NAMES.get(name, name)),
]


class ResNetBlockPart(ChannelsPart):
    """Arguments of both residual blocks."""

    works_on: ClassVar[str | None] = "img"
    revision: ClassVar[int] = 2  # the shortcut's norm, and the ReLU at the end

    stride: Kernel = 1
    """Stride of the block: of the basic block's first convolution, of the bottleneck's 3x3 convolution."""
    norm_type: NormName = "bn"
    """BatchNorm, GroupNorm (32 groups, or as many of them as divide the channels; one in a job with `published: true`),
    LayerNorm over the channels of each position, or InstanceNorm.
    """
    init_identity: bool = True
    """Start as the identity if channels and size stay, but for the ReLU at the end, which cuts off negative values;
    otherwise it copies what fits.
    """
    final_relu: bool = True
    """Put a ReLU after the sum. Without it the block can start as the identity for negative values, too."""


@PARTS.register("ResNetBasicBlock")
class ResNetBasicBlockPart(ResNetBlockPart):
    """Two 3x3 convolutions with a shortcut (He et al., 2015)."""

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        in_channels, out_channels = self.channels(input_format)
        return ResidualBlock(self, [in_channels, out_channels, out_channels], [3, 3], [self.stride, 1], options)


@PARTS.register("ResNetBottleneck")
class ResNetBottleneckPart(ResNetBlockPart):
    """1x1, 3x3 and 1x1 convolutions with a shortcut, a quarter of `out_channels` wide.

    The stride is the 3x3 convolution's, as in torchvision ("ResNet V1.5").
    """

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        in_channels, out_channels = self.channels(input_format)
        width = max(1, out_channels // 4)
        return ResidualBlock(self, [in_channels, width, width, out_channels], [1, 3, 1], [1, self.stride, 1], options)


class ResidualBlock(nn.Module):
    """Shortcut plus a branch of convolutions, each with a norm, with ReLUs between them and after the sum.

    Where the shape changes the shortcut is a 1x1 convolution and a norm.

    Args:
        part: its arguments. With its `init_identity` the last norm's weight is zero, so the branch adds nothing, and
            a shortcut convolution copies the channels that input and output share (the others are zero).
        widths: channels before, between and after the convolutions.
        kernels, strides: of the convolutions.
        options: of the network: how weights start that are not those of the identity, and the groups of GroupNorm.
    """

    def __init__(
        self, part: ResNetBlockPart, widths: list[int], kernels: list[int], strides: list[int], options: BuildOptions
    ) -> None:
        super().__init__()
        norm, groups = _NORMS[part.norm_type], options.norm_groups
        layers: list[nn.Module] = []
        for fan_in, fan_out, kernel, stride in zip(widths[:-1], widths[1:], kernels, strides, strict=True):
            conv = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False)
            layers += [conv, norm(fan_out, groups), nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        stride = max(strides)
        if widths[0] != widths[-1] or stride != 1:
            projection = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(widths[-1], groups))
        initialize_adapter(self, options)
        if part.init_identity:
            nn.init.zeros_(self.branch[-1].weight)  # type: ignore[arg-type]
            if isinstance(self.shortcut, nn.Sequential):
                nn.init.dirac_(projection.weight)
        self.final = nn.ReLU() if part.final_relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.final(self.shortcut(x) + self.branch(x))
