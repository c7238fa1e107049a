"""Stitchers: recipes that bridge a gap, from (what the source gives, what the destination takes) to adapter parts.

A recipe goes from the source's channels to the destination's in factor-two steps, one for each downsampling in the gap
and at least one; the last step ends at exactly the destination's channels. Sizes halve likewise. Each step is one
adapter part. A recipe that cannot bridge a gap declines it with a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stitching.config.errors import unknown_name
from stitching.cutting.formats import Format

__all__ = ["DEFAULT_STITCHERS", "LEAST_SQUARES", "STITCHERS", "AdapterPlan", "Declined", "Interface", "stitcher"]

PartYaml = dict[str, dict[str, Any]]


class Declined(Exception):
    """A stitcher's reason not to bridge a gap."""


@dataclass(frozen=True)
class Interface:
    """What is to be bridged: what the source's last block gives, and what the destination's first block takes."""

    source: Format
    dest: Format
    num_downsamples: int

    @property
    def between_sequences(self) -> bool:
        """Whether neither side is an image."""
        return not {self.source.kind, self.dest.kind} & {"img", "bhwc"}


@dataclass(frozen=True)
class AdapterPlan:
    """A recipe's answer: adapter parts as YAML, and the format that the destination's first part shall be given."""

    parts: list[PartYaml]
    dest_format: Format


@dataclass(frozen=True)
class _Step:
    """One adapter: its channels and the spatial sizes on both its sides."""

    channels_in: int
    channels_out: int
    size_in: tuple[int, int]
    size_out: tuple[int, int]


def _steps(joint: Interface, *, keep_size: bool = False) -> list[_Step]:
    size, last_size = joint.source.spatial, joint.dest.spatial
    if size is None or last_size is None or joint.source.channels is None or joint.dest.channels is None:
        raise Declined(f"no image to stitch: {joint.source} to {joint.dest}")
    channels = joint.source.channels
    if joint.source.prefix and not joint.between_sequences:
        channels *= 2  # the class token is spread over the image
    count = max(1, joint.num_downsamples)
    steps = []
    for i in range(count):
        last = i == count - 1
        smaller = _halved(size, last_size)
        step = _Step(
            channels,
            joint.dest.channels if last else channels * 2,
            size,
            size if keep_size else last_size if last else smaller,
        )
        steps.append(step)
        channels, size = step.channels_out, step.size_out
    return steps


def _halved(size: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
    """Half the size, rounded up, but not past `least`."""
    height, width = ((n + 1) // 2 if n > end else n for n, end in zip(size, least, strict=True))
    return max(height, min(size[0], least[0])), max(width, min(size[1], least[1]))


# ------------------------------------------------------------------------ one step as a part

Layer = Callable[
    [Interface, _Step, tuple[int, int], int], PartYaml
]  # the joint, the step, the size it works at, its stride


def _in_format(joint: Interface, step: _Step, size: tuple[int, int]) -> list[Any]:
    if joint.between_sequences:
        return [joint.dest.kind, [step.channels_in, size[0] * size[1]]]
    return ["img", [step.channels_in, *size]]


def _linear(nonlinearity: bool, norm: bool = True) -> Layer:
    def part(joint: Interface, step: _Step, size: tuple[int, int], stride: int) -> PartYaml:
        arguments: dict[str, Any] = {"in_channels": step.channels_in, "out_channels": step.channels_out}
        if joint.between_sequences:
            arguments |= {"num_fc": 1, "fc_format": joint.dest.kind}
        else:
            arguments |= {"num_conv": 1, "kernel_size": 1}
        arguments |= {"nonlinearity": nonlinearity, "in_format": _in_format(joint, step, size)}
        if not norm:
            arguments |= {"leading_norm": False, "trailing_norm": False}
        return {"SimpleAdapter": arguments}

    return part


def _conv3x3(joint: Interface, step: _Step, size: tuple[int, int], stride: int) -> PartYaml:
    if joint.between_sequences:
        raise Declined("a convolution between two sequences")
    return {
        "SimpleAdapter": {
            "in_channels": step.channels_in, "out_channels": step.channels_out, "num_conv": 1, "kernel_size": 3,
            "stride": stride, "in_format": _in_format(joint, step, size),
        }
    }  # fmt: skip


def _residual(name: str) -> Layer:
    def part(joint: Interface, step: _Step, size: tuple[int, int], stride: int) -> PartYaml:
        arguments = {"in_channels": step.channels_in, "out_channels": step.channels_out}
        if joint.between_sequences:
            if name == "ResNetBottleneck":
                raise Declined("a bottleneck between two sequences")
            width = step.channels_out
            # Heads of 64 channels, as in the published ViTs, or the next narrower that divides the width.
            heads = next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)
            block = {
                **arguments,
                "embed_dim": width,
                "num_heads": heads,
                "in_format": _in_format(joint, step, size),
            }
            return {"VisionTransformerBlock": block}
        if name == "ResNetBottleneck" and step.channels_out < 4:
            raise Declined(f"a bottleneck a quarter as wide as {step.channels_out} channels")
        return {name: {**arguments, "stride": stride, "in_format": _in_format(joint, step, size)}}

    return part


# ------------------------------------------------------------------------ whole recipes


def _sized(dest: Format, size: tuple[int, int]) -> Format:
    """`dest` with another spatial size."""
    return replace(dest, size=size if dest.kind in ("img", "bhwc") else size[0] * size[1])


def _downsample_then(layer: Layer) -> Callable[[Interface], AdapterPlan]:
    return lambda joint: AdapterPlan([layer(joint, step, step.size_out, 1) for step in _steps(joint)], joint.dest)


def _with_downsample(layer: Layer) -> Callable[[Interface], AdapterPlan]:
    def recipe(joint: Interface) -> AdapterPlan:
        if joint.between_sequences and joint.source.spatial != joint.dest.spatial:
            raise Declined(f"nothing between two sequences has a stride: {joint.source} to {joint.dest}")
        parts = []
        for step in _steps(joint):
            # A stride for each downsampling; what is left then is resized, as between any two parts.
            half = _halved(step.size_in, (1, 1))
            strides = joint.num_downsamples and step.size_in != step.size_out
            shrinks = strides and all(n >= end for n, end in zip(half, step.size_out, strict=True))
            parts.append(layer(joint, step, step.size_in, 2 if shrinks else 1))
        return AdapterPlan(parts, joint.dest)

    return recipe


def _post_downsample(layer: Layer) -> Callable[[Interface], AdapterPlan]:
    return lambda joint: AdapterPlan([layer(joint, step, step.size_in, 1) for step in _steps(joint)], joint.dest)


def _no_downsample(layer: Layer) -> Callable[[Interface], AdapterPlan]:
    def recipe(joint: Interface) -> AdapterPlan:
        steps = _steps(joint, keep_size=True)
        return AdapterPlan(
            [layer(joint, step, step.size_in, 1) for step in steps], _sized(joint.dest, steps[-1].size_out)
        )

    return recipe


def _least_squares(joint: Interface) -> AdapterPlan:
    """One affine map at the destination's size, however many downsamplings: a row of them has no closed form."""
    bridge = STITCHERS["affine"](replace(joint, num_downsamples=1))  # type: ignore[misc]
    lacking = joint.dest.prefix - (joint.source.prefix if joint.between_sequences else 0)
    for part in bridge.parts:
        adapter = part["SimpleAdapter"]
        adapter["init"] = "least_squares"
        if lacking > 0:
            adapter["prefix_tokens"] = lacking
        if joint.between_sequences and not joint.source.prefix:  # nor is there one to be mapped with the positions
            adapter["fc_format"], adapter["in_format"][0] = "token", "token"
    return bridge


_CONV, _BOTTLENECK, _BLOCK = _conv3x3, _residual("ResNetBottleneck"), _residual("ResNetBasicBlock")

LEAST_SQUARES = "affine_least_squares"

# finetune has no adapter of its own; the plan puts the network together from the models' own pieces.
STITCHERS: dict[str, Callable[[Interface], AdapterPlan] | None] = {
    "finetune": None,
    "linear_no_downsample": _no_downsample(_linear(nonlinearity=False)),
    "linear_relu_no_downsample": _no_downsample(_linear(nonlinearity=True)),
    "bottleneck_no_downsample": _no_downsample(_BOTTLENECK),
    "block_no_downsample": _no_downsample(_BLOCK),
    "downsample_then_linear": _downsample_then(_linear(nonlinearity=False)),
    "downsample_then_linear_relu": _downsample_then(_linear(nonlinearity=True)),
    "downsample_then_3x3conv": _downsample_then(_CONV),
    "downsample_then_bottleneck": _downsample_then(_BOTTLENECK),
    "downsample_then_block": _downsample_then(_BLOCK),
    "conv3x3_with_downsample": _with_downsample(_CONV),
    "bottleneck_with_downsample": _with_downsample(_BOTTLENECK),
    "block_with_downsample": _with_downsample(_BLOCK),
    "linear_post_downsample": _post_downsample(_linear(nonlinearity=False)),
    "affine": _downsample_then(_linear(nonlinearity=False, norm=False)),
    LEAST_SQUARES: _least_squares,
}

DEFAULT_STITCHERS = (
    "finetune", "linear_no_downsample", "linear_relu_no_downsample", "bottleneck_no_downsample",
    "downsample_then_linear", "downsample_then_linear_relu", "downsample_then_3x3conv", "downsample_then_bottleneck",
    "conv3x3_with_downsample", "bottleneck_with_downsample",
)  # fmt: skip


def stitcher(name: str) -> Callable[[Interface], AdapterPlan] | None:
    """The recipe called `name`; None for finetune. Raises `UserError` for a name that does not exist."""
    if name not in STITCHERS:
        raise unknown_name("stitcher", name, STITCHERS)
    return STITCHERS[name]
