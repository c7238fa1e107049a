"""Stitchers: recipes that bridge a gap, from (what the source gives, what the destination takes) to adapter parts.

Ours go from the source's channels to the destination's in factor-two steps, one for each downsampling in the gap
and at least one, never past the destination's channels; the last step ends at exactly these. Sizes halve likewise.
Each step is one adapter part. A recipe that cannot bridge a gap declines it with a reason. A user's own is registered
with `stitcher`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stitching.config.registries import Registry
from stitching.cutting.formats import Format

if TYPE_CHECKING:
    from stitching.sweeps.staged_models import Stage, Stitch

__all__ = [
    "LEAST_SQUARES", "STITCHERS", "AdapterPlan", "Declined", "Interface", "Step", "Stitcher", "adapter_steps",
    "stitcher",
]  # fmt: skip

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


Recipe = Callable[[Interface], AdapterPlan]


@dataclass(frozen=True)
class Stitcher:
    """An entry of the registry.

    Attributes:
        adapter: makes the adapter between frozen pieces. None where `stages` makes the whole network.
        stages: makes a network without an adapter from the models' own stages, and all of it is trained. There is
            nothing frozen to compare it with, so it has no controls.
        is_default: it is in `stitchers: default`.
        at_source_size: the destination is run at the source's size. One that cannot do that declines the gap; with
            other stitchers it would be an error.
        is_fitted: the adapter is fitted to the destination before training. One that it cannot be fitted to declines
            the gap, and there is no control without a destination.
    """

    adapter: Recipe | None = None
    stages: Callable[[Stitch], list[Stage]] | None = None
    is_default: bool = False
    at_source_size: bool = False
    is_fitted: bool = False


STITCHERS: Registry[Stitcher] = Registry("stitcher")


def stitcher(
    name: str, *, is_default: bool = False, at_source_size: bool = False, is_fitted: bool = False
) -> Callable[[Recipe], Recipe]:
    """A decorator that registers a function from `Interface` to `AdapterPlan`; flags are as in `Stitcher`.

    >>> @stitcher("two_linears")
    ... def two_linears(interface): ...
    """

    def add(recipe: Recipe) -> Recipe:
        entry = Stitcher(recipe, is_default=is_default, at_source_size=at_source_size, is_fitted=is_fitted)
        STITCHERS.register(name)(entry)
        return recipe

    return add


@dataclass(frozen=True)
class Step:
    """One adapter: its channels and the spatial sizes on both its sides."""

    channels_in: int
    channels_out: int
    size_in: tuple[int, int]
    size_out: tuple[int, int]


def adapter_steps(interface: Interface, *, keep_size: bool = False) -> list[Step]:
    """Factor-two steps from the source's channels and size to the destination's, one for each downsampling.

    Args:
        interface: what is to be bridged.
        keep_size: all steps work at the source's size.

    Raises:
        Declined: one of the two sides is no image and no sequence of a square one.
    """
    size, last_size = interface.source.spatial, interface.dest.spatial
    if size is None or last_size is None or interface.source.channels is None or interface.dest.channels is None:
        raise Declined(f"no image to stitch: {interface.source} to {interface.dest}")
    channels = interface.source.channels
    if interface.source.prefix and not interface.between_sequences:
        channels *= 2  # the class token is spread over the image
    count = max(1, interface.num_downsamples)
    steps = []
    for i in range(count):
        last = i == count - 1
        smaller = _halved(size, last_size)
        step = Step(
            channels,
            interface.dest.channels if last else _towards(channels, interface.dest.channels),
            size,
            size if keep_size else last_size if last else smaller,
        )
        steps.append(step)
        channels, size = step.channels_out, step.size_out
    return steps


def _towards(channels: int, last: int) -> int:
    """Twice or half as many channels, in the direction of `last` and not past it."""
    return min(channels * 2, last) if channels < last else max(channels // 2, last)


def _halved(size: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
    """Half the size, rounded up, but not past `least`."""
    height, width = ((n + 1) // 2 if n > end else n for n, end in zip(size, least, strict=True))
    return max(height, min(size[0], least[0])), max(width, min(size[1], least[1]))


# ------------------------------------------------------------------------ one step as a part

Layer = Callable[
    [Interface, Step, tuple[int, int], int], PartYaml
]  # the interface, the step, the size it works at, its stride


def _in_format(interface: Interface, step: Step, size: tuple[int, int]) -> list[Any]:
    if interface.between_sequences:
        return [interface.dest.kind, [step.channels_in, size[0] * size[1]]]
    return ["img", [step.channels_in, *size]]


def _linear(nonlinearity: bool, norm: bool = True) -> Layer:
    def part(interface: Interface, step: Step, size: tuple[int, int], stride: int) -> PartYaml:
        arguments: dict[str, Any] = {"in_channels": step.channels_in, "out_channels": step.channels_out}
        if interface.between_sequences:
            arguments |= {"num_fc": 1, "fc_format": interface.dest.kind}
        else:
            arguments |= {"num_conv": 1, "kernel_size": 1}
        arguments |= {"nonlinearity": nonlinearity, "in_format": _in_format(interface, step, size)}
        if not norm:
            arguments |= {"leading_norm": False, "trailing_norm": False}
        return {"SimpleAdapter": arguments}

    return part


def _conv3x3(interface: Interface, step: Step, size: tuple[int, int], stride: int) -> PartYaml:
    if interface.between_sequences:
        raise Declined("a convolution between two sequences")
    return {
        "SimpleAdapter": {
            "in_channels": step.channels_in, "out_channels": step.channels_out, "num_conv": 1, "kernel_size": 3,
            "stride": stride, "in_format": _in_format(interface, step, size),
        }
    }  # fmt: skip


def _residual(name: str) -> Layer:
    def part(interface: Interface, step: Step, size: tuple[int, int], stride: int) -> PartYaml:
        arguments = {"in_channels": step.channels_in, "out_channels": step.channels_out}
        if interface.between_sequences:
            if name == "ResNetBottleneck":
                raise Declined("a bottleneck between two sequences")
            width = step.channels_out
            # Heads of 64 channels, as in the published ViTs, or the next narrower that divides the width.
            heads = next(n for n in range(max(1, width // 64), 0, -1) if width % n == 0)
            block = {
                **arguments,
                "embed_dim": width,
                "num_heads": heads,
                "in_format": _in_format(interface, step, size),
            }
            return {"VisionTransformerBlock": block}
        if name == "ResNetBottleneck" and step.channels_out < 4:
            raise Declined(f"a bottleneck a quarter as wide as {step.channels_out} channels")
        return {name: {**arguments, "stride": stride, "in_format": _in_format(interface, step, size)}}

    return part


# ------------------------------------------------------------------------ whole recipes


def _sized(dest: Format, size: tuple[int, int]) -> Format:
    """`dest` with another spatial size."""
    return replace(dest, size=size if dest.kind in ("img", "bhwc") else size[0] * size[1])


def _unstrided(layer: Layer, size: Callable[[Step], tuple[int, int]]) -> Recipe:
    """An adapter without a stride for each step; `size` is the spatial size it works at, resized to before or after."""

    def recipe(interface: Interface) -> AdapterPlan:
        parts = [layer(interface, step, size(step), 1) for step in adapter_steps(interface)]
        return AdapterPlan(parts, interface.dest)

    return recipe


def _downsample_then(layer: Layer) -> Recipe:
    return _unstrided(layer, lambda step: step.size_out)


def _post_downsample(layer: Layer) -> Recipe:
    return _unstrided(layer, lambda step: step.size_in)


def _with_downsample(layer: Layer) -> Recipe:
    def recipe(interface: Interface) -> AdapterPlan:
        if interface.between_sequences and interface.source.spatial != interface.dest.spatial:
            raise Declined(f"nothing between two sequences has a stride: {interface.source} to {interface.dest}")
        steps = adapter_steps(interface)
        size, halvings = _strided_from(steps[0].size_in, steps[-1].size_out)
        parts = []
        for i, step in enumerate(steps):
            each, more = divmod(halvings, len(steps))
            stride = 2 ** (each + (i < more))
            parts.append(layer(interface, step, size, stride))
            size = -(-size[0] // stride), -(-size[1] // stride)
        return AdapterPlan(parts, interface.dest)

    return recipe


def _strided_from(size: tuple[int, int], last_size: tuple[int, int]) -> tuple[tuple[int, int], int]:
    """The size that strides of two turn into `last_size`, and how many of them: `size` itself if it is such a size.

    Otherwise the map is resized before the first stride, up to `last_size` where it is smaller.
    """
    halvings, smaller = 0, size
    while all((n + 1) // 2 >= end for n, end in zip(smaller, last_size, strict=True)) and smaller != last_size:
        smaller = (smaller[0] + 1) // 2, (smaller[1] + 1) // 2
        halvings += 1
    return (size if smaller == last_size else (last_size[0] << halvings, last_size[1] << halvings)), halvings


def _no_downsample(layer: Layer) -> Recipe:
    def recipe(interface: Interface) -> AdapterPlan:
        steps = adapter_steps(interface, keep_size=True)
        return AdapterPlan(
            [layer(interface, step, step.size_in, 1) for step in steps], _sized(interface.dest, steps[-1].size_out)
        )

    return recipe


def _least_squares(interface: Interface) -> AdapterPlan:
    """One affine map at the destination's size, however many downsamplings: a row of them has no closed form."""
    bridge = _downsample_then(_AFFINE)(replace(interface, num_downsamples=1))
    lacking = interface.dest.prefix - (interface.source.prefix if interface.between_sequences else 0)
    for part in bridge.parts:
        adapter = part["SimpleAdapter"]
        adapter["init"] = "least_squares"
        if lacking > 0:
            adapter["prefix_tokens"] = lacking
        if interface.between_sequences and not interface.source.prefix:  # nor one to be mapped with the positions
            adapter["fc_format"], adapter["in_format"][0] = "token", "token"
    return bridge


_CONV, _BOTTLENECK, _BLOCK = _conv3x3, _residual("ResNetBottleneck"), _residual("ResNetBasicBlock")

LEAST_SQUARES = "affine_least_squares"


def _without_adapter(stitch: Stitch) -> list[Stage]:
    """The stages of both models around the gap, and those inside it that begin a resolution."""
    first, last = stitch.gap
    source, dest = stitch.source.stages, stitch.dest.stages
    kept = [dest[number] for number in range(first, last + 1) if stitch.dest.begins_resolution(number)]
    stages = [*source[:first], *kept, *dest[last + 1 :]]
    for left, right in itertools.pairwise(stages):
        if left.out_format != right.in_format:
            raise Declined(f"sizes do not meet: {left.out_format} before {right.in_format}")
    return stages


_LINEAR, _LINEAR_RELU, _AFFINE = _linear(False), _linear(True), _linear(False, norm=False)

STITCHERS.register("finetune")(Stitcher(stages=_without_adapter, is_default=True))
stitcher("linear_no_downsample", is_default=True, at_source_size=True)(_no_downsample(_LINEAR))
stitcher("linear_relu_no_downsample", is_default=True, at_source_size=True)(_no_downsample(_LINEAR_RELU))
stitcher("bottleneck_no_downsample", is_default=True, at_source_size=True)(_no_downsample(_BOTTLENECK))
stitcher("block_no_downsample", at_source_size=True)(_no_downsample(_BLOCK))
stitcher("downsample_then_linear", is_default=True)(_downsample_then(_LINEAR))
stitcher("downsample_then_linear_relu", is_default=True)(_downsample_then(_LINEAR_RELU))
stitcher("downsample_then_3x3conv", is_default=True)(_downsample_then(_CONV))
stitcher("downsample_then_bottleneck", is_default=True)(_downsample_then(_BOTTLENECK))
stitcher("downsample_then_block")(_downsample_then(_BLOCK))
stitcher("conv3x3_with_downsample", is_default=True)(_with_downsample(_CONV))
stitcher("bottleneck_with_downsample", is_default=True)(_with_downsample(_BOTTLENECK))
stitcher("block_with_downsample")(_with_downsample(_BLOCK))
stitcher("linear_post_downsample")(_post_downsample(_LINEAR))
stitcher("affine")(_downsample_then(_AFFINE))
stitcher(LEAST_SQUARES, is_fitted=True)(_least_squares)
