"""Cutting and stitching from Python: `stitching.cut_points`, `stitching.cut` and `stitching.stitch`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter, ValidationError
from torch import nn

from stitching.config.errors import UserError, at, reason_of, shortened
from stitching.config.model_sources import SOURCES
from stitching.config.parts import BasePart, PartField
from stitching.cutting import cut_points as cutting
from stitching.cutting.cut_points import CutModule, CutPoint
from stitching.cutting.formats import Format
from stitching.cutting.tracing import Shape3, TracedModel
from stitching.models.building import build, build_meta
from stitching.models.spec import ModelSpec
from stitching.nets.build import BuildOptions, build_part, place_module
from stitching.nets.network import Network, Part

__all__ = ["cut", "cut_points", "stitch"]

_NAME = re.compile(r"[\w.+-]+/\S+|module:\S+")


def cut_points(model: nn.Module | str, image_shape: Sequence[int] | None = None) -> list[CutPoint]:
    """Every place where a model can be cut, from its input to its output.

    Args:
        model: any network that takes images (N, C, H, W); or the name of one, such as `timm/resnet50`,
            `torchvision/swin_t` or `module:my_models.py:make_net`. No weights are loaded for a name.
        image_shape: (C, H, W) of the images; by default those that the model states, or 3x224x224.

    Returns:
        Cut points with their `name`, `shape` (without the batch) and `layout`, the format of the tensor there.

    Raises:
        UserError: the model's graph cannot be traced, or it does not take such images.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    >>> [point.name for point in cut_points(net, (1, 8, 8))]
    ['input', '0', '1', '2', '3']
    """
    if isinstance(model, str):
        model = build_meta(ModelSpec.parse(model))
    return cutting.cut_points(cutting.trace(model, _shape3(image_shape)))


def cut(
    model: nn.Module | str,
    *,
    input: str | None = None,
    output: str | None = None,
    image_shape: Sequence[int] | None = None,
    pretrained: bool | None = None,
    as_tuple: bool = False,
) -> CutModule:
    """The piece of a model between two cut points, as a module of its own.

    It shares nothing with the model: parameters and buffers are copies, under the model's own names.

    Args:
        model: as for `cut_points`.
        input: where it begins: the tensor that enters this module or node; by default the model's input.
        output: where it ends: the value of this module or node; by default the model's output.
        image_shape: as for `cut_points`.
        pretrained: for a named model: load its published weights; the default if there are any.
        as_tuple: cut also where several values cross: the piece takes or returns them as a tuple there.

    Raises:
        UserError: a name is no cut point (lists the values that cross there); or as for `cut_points`.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    >>> front, back = cut(net, output="1", image_shape=(1, 8, 8)), cut(net, input="2", image_shape=(1, 8, 8))
    >>> front.out_format
    Format(kind='img', channels=4, size=(6, 6), prefix=0)
    """
    if isinstance(model, str):
        spec = ModelSpec.parse(model)
        pretrained = spec.source.publishes_weights if pretrained is None else pretrained
        model = build(ModelSpec.parse(model, pretrained=pretrained))
    traced = cutting.trace(model, _shape3(image_shape))
    with at("input"):
        start = cutting.resolve(traced, input, "input", as_tuple=as_tuple)
    with at("output"):
        end = cutting.resolve(traced, output, "output", as_tuple=as_tuple)
    return _extracted(traced, start, end)


def _extracted(traced: TracedModel, start: CutPoint, end: CutPoint) -> CutModule:
    piece = cutting.extract(traced, start, end)
    piece.in_format, piece.out_format = start.layout, end.layout
    if end.layout:
        piece.out_kind, piece.out_prefix = end.layout.kind, end.layout.prefix
    if start.index == 0:
        piece.image_shape = traced.input_shape
    return piece


def stitch(
    parts: Sequence[nn.Module | str | Mapping[str, Any]],
    *,
    image_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Network:
    """A network of parts in a row, with the conversions of formats between them.

    Pieces from `cut` and models by name are frozen: they have no gradients and stay in eval mode. Other parts are
    trained.

    Args:
        parts: pieces from `cut`; any other modules, whose inputs are not converted; names of whole models; or parts
            as in a config, `{"SimpleAdapter": {"num_conv": 1, "out_channels": 8}}` or the same as YAML text.
        image_shape: (C, H, W) of the images; by default those of the first part.
        num_classes: of heads that do not state it.
        seed: for the weights of parts that are built here.

    Returns:
        A module that takes images (N, C, H, W). Its `parts` wrap the given ones, each with conversions of
        formats `before` and `after` it.

    Raises:
        UserError: a part does not take its input; names the part and the shape.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    >>> front, back = cut(net, output="1", image_shape=(1, 8, 8)), cut(net, input="2", image_shape=(1, 8, 8))
    >>> stitched = stitch([front, nn.Conv2d(4, 4, 1), back])
    >>> stitched.out_format
    Format(kind='vector', channels=10, size=None, prefix=0)
    """
    if isinstance(parts, str | nn.Module | Mapping) or not parts:
        raise UserError(f"parts is {shortened(parts)}", allowed="a list of modules, names of models and parts")
    shape = _shape3(image_shape) or getattr(parts[0], "image_shape", None)
    if shape is None:
        raise UserError(
            "the first part does not state which images it takes",
            do="Set image_shape to (C, H, W).",
            path=("image_shape",),
        )
    options = BuildOptions(seed=seed, num_classes=num_classes, images=shape)
    input_format = Format("img", shape[0], (shape[1], shape[2]))
    pieces: list[Part] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number, part in enumerate(parts):
            with at("parts", number):
                pieces.append(_piece(part, input_format, options))
                input_format = pieces[-1].out_format
    return Network(pieces)


def _piece(part: Any, input_format: Format, options: BuildOptions) -> Part:
    if not isinstance(part, nn.Module):
        config = _part_config(part)
        if getattr(config, "init", None):
            raise UserError("`stitch` fits no adapters", do="Leave `init` out, or train the network from a config.")
        return build_part(config, input_format, options)
    was_training = part.training
    declared = getattr(part, "in_format", None) or input_format
    part_format = Format(declared.kind, prefix=declared.prefix) if isinstance(part, CutModule) else input_format
    try:
        with _device_of(part):
            return place_module(part, input_format, part_format, BasePart(frozen=isinstance(part, CutModule)), options)
    finally:
        part.train(was_training and not isinstance(part, CutModule))


def _part_config(part: Any) -> BasePart:
    """The config of a part: from a model's name, from YAML text, or from a mapping."""
    if isinstance(part, str) and _NAME.fullmatch(part.strip()):
        spec = ModelSpec.parse(part.strip())
        part = {"Net": {**SOURCES[spec.backend].keys(spec.name), "frozen": True}}
    elif isinstance(part, str):
        try:
            part = yaml.safe_load(part)
        except yaml.YAMLError as error:
            raise UserError(f"{shortened(part)} is neither a model's name nor YAML: {reason_of(error)}") from None
    try:
        return TypeAdapter(PartField).validate_python(dict(part) if isinstance(part, Mapping) else part)
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        raise UserError(
            details["msg"], allowed=(details.get("ctx") or {}).get("allowed"), path=details["loc"]
        ) from None


def _device_of(module: nn.Module) -> torch.device:
    tensor = next((tensor for tensors in (module.parameters(), module.buffers()) for tensor in tensors), None)
    return tensor.device if tensor is not None else torch.device("cpu")


def _shape3(shape: Sequence[int] | None) -> Shape3 | None:
    if shape is None:
        return None
    if len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise UserError(
            f"image_shape is {shortened(shape)}", allowed="(C, H, W), whole numbers above zero", path=("image_shape",)
        )
    return shape[0], shape[1], shape[2]
