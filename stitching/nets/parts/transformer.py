"""The encoder blocks of ViTs and Swin transformers as adapters."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, model_validator
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn
from torchvision.models import swin_transformer

from stitching.config.bounds import Channels, Heads, Kernel, Probability, Ratio
from stitching.config.errors import UserError
from stitching.config.parts import PARTS
from stitching.config.schema import complaint, one_of, square_as_side
from stitching.cutting.formats import Format
from stitching.nets.buildable import BuildablePart, BuildOptions, ChannelsPart, declared_kind

__all__ = ["SwinTransformerBlockPart", "VisionTransformerBlock", "VisionTransformerBlockPart"]


@PARTS.register("VisionTransformerBlock")
class VisionTransformerBlockPart(ChannelsPart):
    """An encoder block of a ViT (Dosovitskiy et al., 2021) on sequences: norms first, attention, MLP.

    If the input's channels are not the block's width, a linear projection comes first.
    """

    num_heads: Heads = 6
    """Heads of the attention; must divide the width."""
    embed_dim: Channels | None = None
    """Width of the block if `out_channels` is not set; by default the input's channels."""
    mlp_ratio: Ratio = 4.0
    """Width of the MLP's hidden layer over the block's."""
    dropout: Probability = 0.0
    """Probability after the attention and in the MLP."""
    attention_dropout: Probability = 0.0
    """Probability for the attention's weights."""

    def native_format(self, options: BuildOptions) -> Format:
        kind = declared_kind(self, ("token", "bert"))
        return Format(kind, prefix=int(kind == "bert"))

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        in_channels, _ = self.channels(input_format)
        width = self.out_channels or self.embed_dim or in_channels
        if self.embed_dim not in (None, width, in_channels):
            raise UserError(
                f"a block with embed_dim {self.embed_dim} cannot output {width} channels",
                do="Leave out embed_dim or out_channels.",
                path=("embed_dim",),
            )
        _check_heads(self.num_heads, width)
        return VisionTransformerBlock(self, in_channels, width)


class VisionTransformerBlock(nn.Module):
    """A linear projection if the width changes, and timm's block: (N, L, in_channels) to (N, L, width).

    Prefix tokens are tokens like others. Weights are initialised as in timm's ViTs.
    """

    def __init__(self, part: VisionTransformerBlockPart, in_channels: int, width: int) -> None:
        super().__init__()
        self.project = nn.Identity() if in_channels == width else nn.Linear(in_channels, width)
        self.block = Block(
            width, part.num_heads, part.mlp_ratio,
            qkv_bias=True, proj_drop=part.dropout, attn_drop=part.attention_dropout,
        )  # fmt: skip
        self.apply(init_weights_vit_timm)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.project(x))


SidesOfWindow: Any = one_of(number=Kernel, list=Annotated[list[Kernel], Field(min_length=2, max_length=2)])


@PARTS.register("SwinTransformerBlock")
class SwinTransformerBlockPart(BuildablePart):
    """torchvision's Swin block (Liu et al., 2021): attention in windows, MLP. Maps (N, H, W, embed_dim) to the same."""

    works_on: ClassVar[str | None] = "bhwc"

    num_heads: Heads = 6
    """Heads of the attention; must divide the width."""
    embed_dim: Channels | None = None
    """Channels of input and output; by default the input's."""
    do_shift: bool = False
    """Shift the windows by half their size, as in every second block of a Swin."""
    window_size: Annotated[SidesOfWindow, BeforeValidator(square_as_side)] = 7
    """Side of a window, or [height, width]; maps of other sizes are padded."""
    mlp_ratio: Ratio = 4.0
    """Width of the MLP's hidden layer over `embed_dim`."""
    dropout: Probability = 0.0
    """Probability after the attention and in the MLP."""
    attention_dropout: Probability = 0.0
    """Probability for the attention's weights."""
    stochastic_depth: Probability = 0.0
    """Probability of leaving out a branch for an image."""
    drop_path_rate: Probability | None = None
    """Another word for `stochastic_depth`."""

    @model_validator(mode="after")
    def _one_word_for_depth(self) -> Self:
        if self.drop_path_rate is not None:
            if self.stochastic_depth not in (0.0, self.drop_path_rate):
                raise complaint(
                    f"drop_path_rate is {self.drop_path_rate}, and stochastic_depth {self.stochastic_depth}",
                    "one of them", key="drop_path_rate",
                )  # fmt: skip
            self.stochastic_depth, self.drop_path_rate = self.drop_path_rate, None
        return self

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        width = self.embed_dim or input_format.channels
        assert width is not None
        _check_heads(self.num_heads, width)
        sides = self.window_size if isinstance(self.window_size, list) else [self.window_size] * 2
        return swin_transformer.SwinTransformerBlock(
            width,
            self.num_heads,
            window_size=sides,
            shift_size=[side // 2 if self.do_shift else 0 for side in sides],
            mlp_ratio=self.mlp_ratio,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            stochastic_depth_prob=self.stochastic_depth,
        )


def _check_heads(num_heads: int, width: int) -> None:
    if width % num_heads:
        divisors = [str(n) for n in range(1, min(width, 32) + 1) if width % n == 0]
        raise UserError(
            f"{num_heads} heads cannot share {width} channels equally",
            allowed=f"a divisor of {width}: {', '.join(divisors)}",
            path=("num_heads",),
        )
