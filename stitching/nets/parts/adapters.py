"""The adapter between two pieces of trained networks: norms, convolutions or linear layers, nonlinearities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from stitching.config.bounds import Channels, Kernel, Layers
from stitching.config.errors import UserError
from stitching.config.parts import PARTS, BasePart
from stitching.config.schema import complaint
from stitching.cutting.formats import Format
from stitching.nets.buildable import BuildOptions, ChannelsPart, declared_kind, initialize_adapter
from stitching.nets.conversions import Reformat
from stitching.nets.parts.trained import SubnetPart

__all__ = ["PrefixTokens", "SimpleAdapter", "SimpleAdapterPart", "neutral_batch_norm"]

FC_FORMATS = ("token", "bert", "bhwc", "vector")


@PARTS.register("SimpleAdapter")
class SimpleAdapterPart(ChannelsPart):
    """Norm, then n times (layer, norm, LeakyReLU with slope 0.1).

    The layers are convolutions on `img` with BatchNorm2d, or linear maps of the channels with LayerNorm; exactly one of
    `num_conv` and `num_fc` says which and how many. Every layer has a bias, so that the adapter without norms and
    nonlinearity is affine.
    """

    hid_channels: Channels | None = None
    """Channels between the layers where there are several; by default `out_channels`."""
    num_conv: Layers | None = None
    """Number of convolutions, on `img`. Give exactly one of `num_conv` and `num_fc`; 0 counts as left out."""
    num_fc: Layers | None = None
    """Number of linear layers, on `fc_format`."""
    kernel_size: Kernel = 3
    """Side of the convolutions."""
    stride: Kernel = 1
    """Stride of the first convolution."""
    padding: Annotated[int, Field(ge=0, le=255)] | None = None
    """Padding of the convolutions; by default `kernel_size // 2`, which keeps the size of the map for odd kernels."""
    leading_norm: bool = True
    """Put a norm before the first layer."""
    trailing_norm: bool = True
    """Put a norm after the last layer."""
    nonlinearity: bool = True
    """Put a LeakyReLU after each layer, the last one included."""
    init_identity: bool = False
    """Start as the identity (in eval mode): of different numbers of channels the first are kept, and others start at
    zero; with `nonlinearity` negative values change, and the log says so. An error if something else is in the way.
    """
    init: Literal["least_squares"] | None = None
    """`least_squares`: before training, fit the adapter to the destination's features. It must be one linear map of
    single positions.
    """
    prefix_tokens: Annotated[int, Field(ge=0, le=1000)] | None = None
    """With `init`: number of new prefix tokens (such as a class token), linear maps of the image's means; by default as
    many as the next part takes and the input lacks.
    """
    fc_format: Literal["token", "bert", "bhwc", "vector"] | None = None
    """Format that linear layers work on; by default that of `in_format`, else token."""

    @model_validator(mode="after")
    def _one_kind_of_layer(self) -> Self:
        self.num_conv, self.num_fc = self.num_conv or None, self.num_fc or None
        if (self.num_conv is None) == (self.num_fc is None):
            which = "neither" if self.num_conv is None else "both"
            raise complaint(f"{which} of num_conv and num_fc given", "exactly one of num_conv, num_fc")
        if self.prefix_tokens and not self.init:
            raise complaint("prefix_tokens are of an adapter that is fitted", "it together with `init: least_squares`")
        return self

    @property
    def num_layers(self) -> int:
        """How many layers, of either kind."""
        return self.num_conv or self.num_fc or 0

    @property
    def layer_padding(self) -> int:
        """Padding of the convolutions."""
        return self.kernel_size // 2 if self.padding is None else self.padding

    def native_format(self, options: BuildOptions) -> Format:
        kind = "img" if self.num_conv else self.fc_format or declared_kind(self, FC_FORMATS)
        return Format(kind, prefix=int(kind == "bert"))

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        in_channels, out_channels = self.channels(input_format)
        prefix = PrefixTokens(input_format, out_channels, self.prefix_tokens) if self.prefix_tokens else None
        adapter = SimpleAdapter(self, in_channels, out_channels, input_format.kind, prefix)
        if not self.init_identity:
            initialize_adapter(adapter.layers, options)
        return adapter

    def in_front_of(self, following: Sequence[BasePart], input_format: Format, options: BuildOptions) -> BasePart:
        """An adapter with `init` adds the prefix tokens that the next subnet takes and its own input lacks.

        A conversion would add tokens that do not depend on the image.
        """
        is_open = self.init and self.prefix_tokens is None and self.out_format is None
        if not is_open or not following or not isinstance(following[0], SubnetPart):
            return self
        try:
            needed = following[0].native_format(options).prefix
        except UserError:  # reported when that part is built
            return self
        native = self.native_format(options)
        present = max(input_format.prefix, native.prefix) if native.prefix else 0
        return self.model_copy(update={"prefix_tokens": max(0, needed - present)})


def neutral_batch_norm(channels: int) -> nn.BatchNorm2d:
    """A BatchNorm2d that is the identity in eval mode, bit for bit in float32 and bfloat16.

    With the usual running variance of one it would divide by sqrt(1 + eps); here variance and eps add up to one.
    """
    norm = nn.BatchNorm2d(channels)
    assert norm.running_var is not None
    nn.init.constant_(norm.running_var, 1 - norm.eps)
    return norm


class PrefixTokens(nn.Module):
    """Puts prefix tokens, such as a class token, before the output of an adapter: linear maps of the adapter's input.

    They are maps of the means over the four quarters of an image, one vector for each channel and quarter; over all
    positions of a sequence. Fitted on 500 of the demo's digits, four quarters carry almost what a map of
    all positions carries (stitched accuracies .49 .81 .77 .89 over the four gaps, all positions .54 .83 .81 .89, the
    mean of the whole image .42 .61 .57 .78, tokens of zeros .14 .21 .13 .17), and their map does not grow with the
    image. It starts at zero.

    Args:
        input_format: the format of the adapter's input.
        channels: of the adapter's output.
        count: number of new tokens; they follow those of the input.
    """

    def __init__(self, input_format: Format, channels: int, count: int) -> None:
        super().__init__()
        self.input_format = input_format
        self.count = count
        self.is_image = input_format.kind in ("img", "bhwc")
        self.as_image = Reformat(input_format, Format("img")) if self.is_image else nn.Identity()
        output = replace(input_format, channels=channels)
        self.as_sequence = nn.Identity() if output.kind == "bert" else Reformat(output, Format("token"))
        self.weight = nn.Parameter(
            torch.zeros(count * channels, (input_format.channels or 0) * (4 if self.is_image else 1))
        )
        self.bias = nn.Parameter(torch.zeros(count * channels))

    def means(self, x: Tensor) -> Tensor:
        """The means that the tokens are mapped from: (N, 4 C) of images, (N, C) of sequences and vectors."""
        if self.is_image:
            return F.adaptive_avg_pool2d(self.as_image(x), 2).flatten(1)
        return x if self.input_format.kind == "vector" else x[:, self.input_format.prefix :].mean(1)

    def forward(self, x: Tensor, mapped: Tensor) -> Tensor:
        """`mapped`, the layers' output for `x`, as a sequence (N, P+L, C) with the new tokens in it."""
        tokens = F.linear(self.means(x), self.weight, self.bias).unflatten(1, (self.count, -1))
        sequence, prefix = self.as_sequence(mapped), self.input_format.prefix
        return torch.cat([sequence[:, :prefix], tokens, sequence[:, prefix:]], 1)


class SimpleAdapter(nn.Module):
    """The layers of a `SimpleAdapterPart`.

    Takes and returns (N, C, H, W) with convolutions; with linear layers any of token, bert, bhwc and vector, channels
    last in all of them.

    Args:
        part: its arguments.
        in_channels, out_channels: channels of input and output.
        kind: the format that it works on.
        prefix: adds prefix tokens; the output is `bert` then.

    Attributes:
        notes: for the user, what the start as the identity changes all the same.
        init: `least_squares` if it is fitted before training (`stitching.similarity.least_squares`).

    Raises:
        UserError: for a stride of linear layers, `init_identity` if the adapter cannot be the identity, or `init` if it
            is no linear map of single positions.
    """

    def __init__(
        self,
        part: SimpleAdapterPart,
        in_channels: int,
        out_channels: int,
        kind: str = "img",
        prefix: PrefixTokens | None = None,
    ) -> None:
        super().__init__()
        if part.num_fc and part.stride != 1:
            raise UserError(
                f"linear layers have no stride, but stride is {part.stride}",
                do="Use num_conv, or resize with `out_format`.",
                path=("stride",),
            )
        hidden = [part.hid_channels or out_channels] * (part.num_layers - 1)
        widths = [in_channels, *hidden, out_channels]
        if part.init_identity:
            _check_identity(part, widths)
        if part.init is not None:
            _check_linear(part)
        self.notes = _identity_notes(part, widths) if part.init_identity else []
        self.init = part.init
        self.out_kind = kind
        self.prefix = prefix
        if prefix is not None:
            self.out_kind, self.out_prefix = "bert", prefix.input_format.prefix + prefix.count
        self.layers = nn.Sequential(*_layers(part, widths))

    def forward(self, x: Tensor) -> Tensor:
        mapped = self.layers(x)
        return mapped if self.prefix is None else self.prefix(x, mapped)


def _layers(part: SimpleAdapterPart, widths: list[int]) -> list[nn.Module]:
    """Norms, layers and nonlinearities in order; `widths` are the channels before, between and after the layers."""
    norm: Callable[[int], nn.Module] = nn.LayerNorm
    if part.num_conv:
        norm = neutral_batch_norm if part.init_identity else nn.BatchNorm2d
    layers = [norm(widths[0])] if part.leading_norm else []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers.append(_layer(part, fan_in, fan_out, part.stride if i == 0 else 1))
        if part.trailing_norm or i < part.num_layers - 1:
            layers.append(norm(fan_out))
        if part.nonlinearity:
            layers.append(nn.LeakyReLU(0.1))
    return layers


def _layer(part: SimpleAdapterPart, fan_in: int, fan_out: int, stride: int) -> nn.Module:
    layer: nn.Conv2d | nn.Linear
    if part.num_conv:
        layer = nn.Conv2d(fan_in, fan_out, part.kernel_size, stride, part.layer_padding)
    else:
        layer = nn.Linear(fan_in, fan_out)
    if part.init_identity:
        (nn.init.dirac_ if part.num_conv else nn.init.eye_)(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def _check_linear(part: SimpleAdapterPart) -> None:
    """Raise a `UserError` if the adapter is more than one linear map of single positions."""
    is_wrong = {
        "num_conv: 1" if part.num_conv else "num_fc: 1": part.num_layers > 1,
        "kernel_size: 1": part.num_conv and part.kernel_size != 1,
        "stride: 1": part.stride != 1,
        "padding: 0": part.num_conv and part.layer_padding != 0,
        "leading_norm: false": part.leading_norm,
        "trailing_norm: false": part.trailing_norm,
        "nonlinearity: false": part.nonlinearity,
        "init_identity: false": part.init_identity,
    }
    if any(is_wrong.values()):
        raise UserError(
            "least squares fits one linear map of single positions, and this adapter is something else",
            do=f"Set {', '.join(key for key, wrong in is_wrong.items() if wrong)}.", path=("init",),
        )  # fmt: skip


def _check_identity(part: SimpleAdapterPart, widths: list[int]) -> None:
    """Raise a `UserError` that names the option by which the adapter cannot be the identity."""
    first, *between, last = widths

    def refuse(reason: str, do: str) -> UserError:
        return UserError(f"the adapter cannot start as the identity: {reason}", do=do, path=("init_identity",))

    if any(width < min(first, last) for width in between):
        raise refuse(
            f"hid_channels {between[0]} are fewer than the {min(first, last)} that it keeps",
            f"Set hid_channels to {min(first, last)} or more, or leave it out.",
        )
    keeps_size = part.stride == 1 and part.kernel_size % 2 == 1 and part.layer_padding == part.kernel_size // 2
    if part.num_conv and not keeps_size:
        raise refuse("it changes the size of the map", "Use stride 1, an odd kernel_size and no `padding` of your own.")
    if part.num_fc and between:
        raise refuse("the LayerNorm between its layers changes any input", "Set `num_fc: 1`.")
    if part.num_fc and (part.leading_norm or part.trailing_norm):
        raise refuse("a LayerNorm changes any input", "Set `leading_norm: false` and `trailing_norm: false`.")


def _identity_notes(part: SimpleAdapterPart, widths: list[int]) -> list[str]:
    """What an adapter that starts as the identity changes all the same."""
    first, last = widths[0], widths[-1]
    notes = []
    if first != last:
        notes.append(
            f"the adapter from {first} to {last} channels starts with the first {min(first, last)} as they are"
        )
    if part.nonlinearity:
        notes.append("the adapter starts as the identity of positive values: its LeakyReLU changes negative ones")
    return notes
