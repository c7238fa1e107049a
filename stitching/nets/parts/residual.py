"""Single blocks of the usual architectures, as adapters: two residual blocks, a ViT and a Swin encoder block."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd

from timm.layers import LayerNorm2d
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn
from torchvision.models import swin_transformer

from stitching.config.errors import UserError, unknown_name

__all__ = ["ResNetBasicBlock", "ResNetBottleneck", "SwinTransformerBlock", "VisionTransformerBlock"]

# GroupNorm has 32 groups (Wu & He, 2018), or as many of them as divide the channels. LayerNorm is over the channels of
# each position, as in ConvNeXt.
_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "bn": nn.BatchNorm2d,
    "gn": lambda channels: nn.GroupNorm(gcd(32, channels), channels),
    "ln": LayerNorm2d,
    "in": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


class _Residual(nn.Module):
    """Shortcut plus a branch of convolutions, each with a norm, with ReLUs between them.

    There is no ReLU after the sum, where He et al. (2015) have one: it would cut off negative values, and the block
    could not start as the identity. Where the shape changes the shortcut is a 1x1 convolution.

    Args:
        widths: channels before, between and after the convolutions.
        kernels, strides: of the convolutions.
        norm_type: bn, gn, ln or in.
        init_identity: the last norm's weight is zero, so the branch adds nothing, and a shortcut convolution copies the
            channels that in and out have in common (the others are zero).
    """

    in_kind = "img"
    out_kind = "img"

    def __init__(
        self, widths: list[int], kernels: list[int], strides: list[int], norm_type: str, init_identity: bool
    ) -> None:
        super().__init__()
        if norm_type not in _NORMS:
            raise unknown_name("norm_type", norm_type, _NORMS, path=("norm_type",))
        layers: list[nn.Module] = []
        for fan_in, fan_out, kernel, stride in zip(widths[:-1], widths[1:], kernels, strides, strict=True):
            norm = _NORMS[norm_type](fan_out)
            conv = nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=False)
            layers += [conv, norm, nn.ReLU()]
        self.branch = nn.Sequential(*layers[:-1])
        self.shortcut: nn.Module = nn.Identity()
        stride = max(strides)
        if widths[0] != widths[-1] or stride != 1:
            self.shortcut = nn.Conv2d(widths[0], widths[-1], 1, stride, bias=False)
        if init_identity:
            nn.init.zeros_(norm.weight)  # type: ignore[arg-type]
            if isinstance(self.shortcut, nn.Conv2d):
                nn.init.dirac_(self.shortcut.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.branch(x)


class ResNetBasicBlock(_Residual):
    """Two 3x3 convolutions with a shortcut (He et al., 2015), without the ReLU after the sum.

    Takes (N, in_channels, H, W), gives (N, out_channels, H / stride, W / stride), rounded up.

    Args:
        in_channels, out_channels: channels of what arrives and of what leaves.
        stride: of the first convolution and of the shortcut.
        norm_type: bn, gn, ln or in.
        init_identity: start as the identity (exactly, if channels and size stay; else as copying what fits).

    Raises:
        UserError: if the norm is unknown.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        norm_type: str = "bn",
        init_identity: bool = True,
    ) -> None:
        super().__init__([in_channels, out_channels, out_channels], [3, 3], [stride, 1], norm_type, init_identity)


class ResNetBottleneck(_Residual):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; a quarter of `out_channels` wide. Else as `ResNetBasicBlock`.

    The stride is the 3x3 convolution's, as in torchvision ("ResNet V1.5").
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        norm_type: str = "bn",
        init_identity: bool = True,
    ) -> None:
        width = max(1, out_channels // 4)
        super().__init__([in_channels, width, width, out_channels], [1, 3, 1], [1, stride, 1], norm_type, init_identity)


def _check_heads(num_heads: int, width: int) -> None:
    if width % num_heads:
        fitting = [str(n) for n in range(1, min(width, 32) + 1) if width % n == 0]
        raise UserError(
            f"{num_heads} heads cannot share {width} channels equally",
            allowed=f"a divisor of {width}: {', '.join(fitting)}",
            path=("num_heads",),
        )


class VisionTransformerBlock(nn.Module):
    """An encoder block of a ViT (Dosovitskiy et al., 2021) on sequences: norms first, attention, MLP.

    Takes (N, L, in_channels), gives (N, L, out_channels). Where these differ a linear projection comes first, and the
    block is `out_channels` wide. Weights start as timm's ViTs do.

    Args:
        in_channels: channels that arrive.
        out_channels: channels that leave; `embed_dim` if None.
        num_heads: of the attention; must divide the width.
        embed_dim: the block's width, if not said by `out_channels`; `in_channels` if None.
        mlp_ratio: width of the MLP's hidden layer over the block's.
        dropout: probability after the attention and in the MLP.
        attention_dropout: probability for the attention's weights.
        kind: the sequences it is given, token or bert. The prefix tokens of the latter are tokens like others.

    Raises:
        UserError: if `num_heads` does not divide the width, or `embed_dim` is neither the channels that arrive nor
            those that leave.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int | None = None,
        num_heads: int = 6,
        embed_dim: int | None = None,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        kind: str = "token",
    ) -> None:
        super().__init__()
        if kind not in ("token", "bert"):
            raise unknown_name("kind of sequence", kind, ("token", "bert"), path=("in_format",))
        width = out_channels or embed_dim or in_channels
        if embed_dim not in (None, width, in_channels):
            raise UserError(
                f"a block with embed_dim {embed_dim} cannot give {width} channels",
                do="Leave out embed_dim or out_channels.",
                path=("embed_dim",),
            )
        _check_heads(num_heads, width)
        self.in_kind = self.out_kind = kind
        self.project = nn.Identity() if in_channels == width else nn.Linear(in_channels, width)
        self.block = Block(width, num_heads, mlp_ratio, qkv_bias=True, proj_drop=dropout, attn_drop=attention_dropout)
        self.apply(init_weights_vit_timm)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.project(x))


class SwinTransformerBlock(swin_transformer.SwinTransformerBlock):
    """torchvision's Swin block (Liu et al., 2021): attention in windows, MLP. Takes and gives (N, H, W, embed_dim).

    Args:
        embed_dim: channels that arrive and leave.
        num_heads: of the attention; must divide `embed_dim`.
        do_shift: whether the windows are shifted by half their size, as in every second block of a Swin.
        window_size: side of a window; maps of other sizes are padded.
        mlp_ratio: width of the MLP's hidden layer over `embed_dim`.
        dropout, attention_dropout: probabilities in the MLP and after the attention, and for its weights.
        stochastic_depth: probability of leaving out a branch for an image.

    Raises:
        UserError: if `num_heads` does not divide `embed_dim`.
    """

    in_kind = "bhwc"
    out_kind = "bhwc"

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int = 6,
        do_shift: bool = False,
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        _check_heads(num_heads, embed_dim)
        shift = window_size // 2 if do_shift else 0
        super().__init__(
            embed_dim,
            num_heads,
            window_size=[window_size, window_size],
            shift_size=[shift, shift],
            mlp_ratio=mlp_ratio,
            dropout=dropout,
            attention_dropout=attention_dropout,
            stochastic_depth_prob=stochastic_depth,
        )
