"""The small trainable parts between two pieces of trained networks, and the head behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stitching.config.errors import UserError, unknown_name
from stitching.cutting.formats import Format, Reformat

__all__ = ["ClassifierHead", "PrefixTokens", "SimpleAdapter", "neutral_batch_norm"]

FC_FORMATS = ("token", "bert", "bhwc", "vector")


def neutral_batch_norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm2d that in eval mode changes nothing, bit for bit in float32 and bfloat16.

    With the usual running variance of one it would divide by sqrt(1 + eps); here variance and eps add up to one.
    """
    norm = nn.BatchNorm2d(channels)
    assert norm.running_var is not None
    nn.init.constant_(norm.running_var, 1 - norm.eps)
    return norm


class PrefixTokens(nn.Module):
    """Puts prefix tokens, such as a class token, in front of what an adapter gives: linear maps of what it is given.

    They are maps of the means over the four quarters of an image, one vector for each channel and quarter; over all
    positions where a sequence arrives. Fitted on 500 of the demo's digits, four quarters carry almost what a map of
    all positions carries (stitched accuracies .49 .81 .77 .89 over the four gaps, all positions .54 .83 .81 .89, the
    mean of the whole image .42 .61 .57 .78, tokens of zeros .14 .21 .13 .17), and their map does not grow with the
    image. It starts at zero.

    Args:
        arriving: what the adapter is given.
        channels: of what it gives.
        count: how many new tokens; they follow those that arrive.
    """

    def __init__(self, arriving: Format, channels: int, count: int) -> None:
        super().__init__()
        self.arriving = arriving
        self.count = count
        self.is_image = arriving.kind in ("img", "bhwc")
        self.as_image = Reformat(arriving, Format("img")) if self.is_image else nn.Identity()
        given = replace(arriving, channels=channels)
        self.as_sequence = nn.Identity() if given.kind == "bert" else Reformat(given, Format("token"))
        self.weight = nn.Parameter(
            torch.zeros(count * channels, (arriving.channels or 0) * (4 if self.is_image else 1))
        )
        self.bias = nn.Parameter(torch.zeros(count * channels))

    def means(self, x: Tensor) -> Tensor:
        """What the tokens are made from: (N, 4 C) of images, (N, C) of sequences and vectors."""
        if self.is_image:
            return F.adaptive_avg_pool2d(self.as_image(x), 2).flatten(1)
        return x if self.arriving.kind == "vector" else x[:, self.arriving.prefix :].mean(1)

    def forward(self, x: Tensor, mapped: Tensor) -> Tensor:
        """`mapped`, which the adapter made of `x`, as a sequence (N, P+L, C) with the new tokens in it."""
        tokens = F.linear(self.means(x), self.weight, self.bias).unflatten(1, (self.count, -1))
        sequence, kept = self.as_sequence(mapped), self.arriving.prefix
        return torch.cat([sequence[:, :kept], tokens, sequence[:, kept:]], 1)


class SimpleAdapter(nn.Module):
    """Norm, then n times (layer, norm, LeakyReLU with slope 0.1).

    The layers are convolutions on `img` with BatchNorm2d, or linear maps of the channels with LayerNorm; exactly one of
    `num_conv` and `num_fc` says which and how many. Every layer has a bias, so that the adapter without norms and
    nonlinearity is affine.

    Args:
        in_channels, out_channels: channels of what arrives and of what leaves.
        hid_channels: channels between the layers when there are several; `out_channels` if None.
        kernel_size, stride, padding: of the convolutions; the stride is the first one's, padding None is
            `kernel_size // 2`, which keeps the size of the map for odd kernels.
        leading_norm: whether a norm stands before the first layer.
        trailing_norm: whether a norm stands after the last layer.
        nonlinearity: whether LeakyReLUs stand after the layers, the last one included.
        init_identity: start as the identity: in eval mode nothing is changed.
        init: least_squares marks one that is to be fitted before training (`stitching.similarity.least_squares`);
            it must be one linear map: one layer on single positions, without norms and nonlinearity.
        fc_format: what the linear layers work on: token, bert, bhwc or vector, channels last in all of them.
        prefix: makes prefix tokens that the layers cannot give; what leaves is `bert` then.

    Raises:
        UserError: if both or neither of `num_conv` and `num_fc` are given, a number is too small, an adapter that
            cannot be the identity is to start as it, or one that is no linear map is to be fitted as one.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        hid_channels: int | None = None,
        num_conv: int | None = None,
        num_fc: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        leading_norm: bool = True,
        trailing_norm: bool = True,
        nonlinearity: bool = True,
        init_identity: bool = False,
        init: str | None = None,
        fc_format: str = "token",
        prefix: PrefixTokens | None = None,
    ) -> None:
        super().__init__()
        if (num_conv is None) == (num_fc is None):
            said = "neither" if num_conv is None else "both"
            raise UserError(f"{said} of num_conv and num_fc given", allowed="exactly one of num_conv, num_fc")
        counted = "num_fc" if num_conv is None else "num_conv"
        number = num_fc if num_conv is None else num_conv
        assert number is not None
        if number < 1:
            raise UserError(f"{number} layers are none", allowed="1 or more", path=(counted,))
        if fc_format not in FC_FORMATS:
            raise unknown_name("fc_format", fc_format, FC_FORMATS, path=("fc_format",))
        if num_fc is not None and stride != 1:
            raise UserError(
                f"linear layers have no stride, found {stride}",
                do="Use num_conv, or resize with `out_format`.",
                path=("stride",),
            )
        padding = kernel_size // 2 if padding is None else padding
        widths = [in_channels, *[hid_channels or out_channels] * (number - 1), out_channels]
        if init_identity:
            _check_identity(
                widths,
                on_conv=num_conv is not None,
                size_kept=stride == 1 and kernel_size % 2 == 1 and padding == kernel_size // 2,
                leading_norm=leading_norm,
                trailing_norm=trailing_norm,
                nonlinearity=nonlinearity,
            )
        if init is not None:
            wrong = {
                f"{counted}: 1": number > 1,
                "kernel_size: 1": num_conv is not None and kernel_size != 1,
                "stride: 1": stride != 1,
                "padding: 0": num_conv is not None and padding != 0,
                "leading_norm: false": leading_norm,
                "trailing_norm: false": trailing_norm,
                "nonlinearity: false": nonlinearity,
                "init_identity: false": init_identity,
            }
            if any(wrong.values()):
                raise UserError(
                    "least squares fits one linear map of single positions, and this adapter is another one",
                    do=f"Set {', '.join(key for key, is_wrong in wrong.items() if is_wrong)}.", path=("init",),
                )  # fmt: skip

        self.init = init
        self.in_kind = self.out_kind = "img" if num_conv is not None else fc_format
        self.prefix = prefix
        if prefix is not None:
            self.out_kind, self.out_prefix = "bert", prefix.arriving.prefix + prefix.count
        norm: Callable[[int], nn.Module] = nn.LayerNorm
        if num_conv is not None:
            norm = neutral_batch_norm if init_identity else nn.BatchNorm2d
        layers = [norm(in_channels)] if leading_norm else []
        for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
            if num_conv is not None:
                layer: nn.Conv2d | nn.Linear = nn.Conv2d(fan_in, fan_out, kernel_size, stride if i == 0 else 1, padding)
            else:
                layer = nn.Linear(fan_in, fan_out)
            if init_identity:
                (nn.init.dirac_ if num_conv is not None else nn.init.eye_)(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            layers.append(layer)
            if trailing_norm or i < number - 1:
                layers.append(norm(fan_out))
            if nonlinearity:
                layers.append(nn.LeakyReLU(0.1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        mapped = self.layers(x)
        return mapped if self.prefix is None else self.prefix(x, mapped)


def _check_identity(
    widths: list[int], *, on_conv: bool, size_kept: bool, leading_norm: bool, trailing_norm: bool, nonlinearity: bool
) -> None:
    """Raise a `UserError` that names the option which keeps an adapter from being the identity."""
    first, *between, last = widths

    def refuse(reason: str, do: str) -> UserError:
        return UserError(f"the adapter cannot start as the identity: {reason}", do=do, path=("init_identity",))

    if first != last:
        raise refuse(f"{first} channels arrive and {last} leave", "Turn init_identity off.")
    if any(width < first for width in between):
        raise refuse(
            f"hid_channels {between[0]} are fewer than the {first} that arrive",
            f"Give at least {first} hid_channels, or leave them out.",
        )
    if on_conv and not size_kept:
        raise refuse("it changes the size of the map", "Use stride 1, an odd kernel_size and no `padding` of your own.")
    if nonlinearity:
        raise refuse("a LeakyReLU changes negative values", "Set `nonlinearity: false`.")
    if not on_conv and between:
        raise refuse("a LayerNorm stands between its layers and changes any input", "Set `num_fc: 1`.")
    if not on_conv and (leading_norm or trailing_norm):
        raise refuse("a LayerNorm changes any input", "Set `leading_norm: false` and `trailing_norm: false`.")


class ClassifierHead(nn.Module):
    """Average pool, flatten, linear: images (N, C, H, W) to scores (N, num_classes).

    Args:
        in_channels: C.
        num_classes: how many scores.
        pooled_size: height and width that the map is pooled to, one number if they are the same.
    """

    in_kind = "img"
    out_kind = "vector"

    def __init__(self, *, in_channels: int, num_classes: int, pooled_size: int | Sequence[int] = 1) -> None:
        super().__init__()
        height, width = (pooled_size, pooled_size) if isinstance(pooled_size, int) else pooled_size
        self.pool = nn.AdaptiveAvgPool2d((height, width))
        self.fc = nn.Linear(in_channels * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(x).flatten(1))
