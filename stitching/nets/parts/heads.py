"""Heads: from the features at the end of a network to class scores."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from stitching.config.bounds import Classes, Pixels
from stitching.config.errors import UserError
from stitching.config.parts import PARTS
from stitching.cutting.formats import Format
from stitching.nets.buildable import BuildablePart, BuildOptions

__all__ = ["ClassifierHead", "ClassifierHeadPart"]


@PARTS.register("ClassifierHead")
class ClassifierHeadPart(BuildablePart):
    """Average pool, flatten, linear."""

    is_head: ClassVar[bool] = True
    works_on: ClassVar[str | None] = "img"

    num_classes: Classes | None = None
    """Number of classes; by default those of the data set."""
    pooled_size: Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)] = 1
    """Side that the map is pooled to, or [height, width]."""

    def native_format(self, options: BuildOptions) -> Format | None:
        if self.num_classes is None and options.num_classes is None:
            raise UserError(
                "the number of classes is unknown",
                do="Set `num_classes`; for several tasks, use a head for each in a ParallelPart.",
                path=("num_classes",),
            )
        return super().native_format(options)

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        size = self.pooled_size
        height, width = (size, size) if isinstance(size, int) else size
        classes = self.num_classes or options.num_classes
        assert input_format.channels is not None
        assert classes is not None
        return ClassifierHead(input_format.channels, classes, (height, width))


class ClassifierHead(nn.Module):
    """Average pool, flatten, linear: images (N, C, H, W) to scores (N, num_classes).

    Args:
        in_channels: C.
        num_classes: number of scores.
        pooled_size: height and width that the map is pooled to.
    """

    out_kind = "vector"

    def __init__(self, in_channels: int, num_classes: int, pooled_size: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        height, width = pooled_size
        self.pool = nn.AdaptiveAvgPool2d((height, width))
        self.fc = nn.Linear(in_channels * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(x).flatten(1))
