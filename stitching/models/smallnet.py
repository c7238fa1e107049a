"""A plain convolutional network with its head, small enough for a laptop: for tests, examples and first steps."""

from __future__ import annotations

from torch import Tensor, nn

from stitching.config.errors import UserError

__all__ = ["SmallNet"]


class SmallNet(nn.Module):
    """Blocks of 3x3 convolution, BatchNorm, ReLU and 2x2 max pooling, then the mean over positions and a linear head.

    Takes (N, in_chans, H, W), returns (N, num_classes). Each block halves the map, rounding up, so that images of any
    size pass any number of blocks. `num_classes` and `in_chans` have their names in timm.

    Args:
        num_blocks: number of blocks, named `blocks.0`, `blocks.1`, ...
        num_classes: number of scores.
        in_chans: channels of the images.
        width: channels of every block.

    Raises:
        UserError: if there are no blocks.
    """

    in_kind = "img"
    out_kind = "vector"

    def __init__(self, *, num_blocks: int = 4, num_classes: int = 10, in_chans: int = 3, width: int = 64) -> None:
        super().__init__()
        if num_blocks < 1:
            raise UserError(f"num_blocks is {num_blocks}", allowed="1 or more", path=("num_blocks",))
        self.blocks = nn.Sequential(*(_block(width if i else in_chans, width) for i in range(num_blocks)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.pool(self.blocks(x))))


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True),
    )
