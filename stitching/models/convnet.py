"""The plain convolutional encoder that published configs name `convnet`."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from stitching.config.errors import UserError

__all__ = ["ConvNet"]

WIDTH = 64


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution to 64 channels, InstanceNorm, ReLU and 2x2 max pooling, without a head.

    Takes (N, in_chans, H, W), returns (N, 64, H / 2^n, W / 2^n), rounded down, so images must be large enough for
    `num_blocks`. The blocks are named `encoder.block1`, `encoder.block2`, ...

    Args:
        num_blocks: number of blocks.
        in_chans: channels of the images, by the name that timm has for them.

    Raises:
        UserError: if there are no blocks.
    """

    in_kind = "img"
    out_kind = "img"

    def __init__(self, *, num_blocks: int = 4, in_chans: int = 3) -> None:
        super().__init__()
        if num_blocks < 1:
            raise UserError(f"num_blocks is {num_blocks}", allowed="1 or more", path=("num_blocks",))
        blocks = {f"block{i + 1}": _block(WIDTH if i else in_chans) for i in range(num_blocks)}
        self.encoder = nn.Sequential(OrderedDict(blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


def _block(in_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, WIDTH, 3, padding=1),
        nn.InstanceNorm2d(WIDTH, affine=True),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )
