"""Shapes and formats inside a model, from one run on the meta device: no data, no memory, no weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from stitching.config.errors import UserError, reason_of
from stitching.cutting.formats import Format
from stitching.cutting.tracing import ModeGraph, Shape3, TracedModel, all_tensors, made_from

__all__ = ["TRIAL_BATCH", "Shapes", "layouts", "meta_copy", "run_on_meta", "shape_without_batch"]

TRIAL_BATCH = 5  # of trial runs: unlikely to be the size of another dimension
Shapes = dict[fx.Node, tuple[int, ...]]


def meta_copy(model: nn.Module) -> nn.Module:
    """A copy of a module whose tensors have shapes but no data."""
    memo: dict[int, Any] = {}
    for tensor in all_tensors(model):
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(model, memo)


def run_on_meta(
    traced: TracedModel,
    mode: bool,
    images: tuple[int, ...],
    after_node: Callable[[fx.Node, Any], None],
) -> None:
    """Run one mode's graph for images (N, C, H, W) on the meta device; `after_node` sees every node and its value.

    Raises:
        UserError: if the model cannot take images of this shape.
    """
    key = "meta copy"
    if key not in traced.cache:
        model = meta_copy(traced.model)
        for name, constant in traced.constants.items():
            setattr(model, name, constant.to("meta"))
        traced.cache[key] = model
    runner = _Runner(traced.cache[key].train(mode), traced.graphs[mode].graph, after_node)
    try:
        with torch.device("meta"):
            runner.run(torch.empty(images))
    except Exception as error:  # a model built with a user's arguments can raise anything
        raise UserError(
            f"{made_from(traced.model)} cannot take {'x'.join(map(str, images[1:]))} images: {reason_of(error)}",
            do="Use the image size that the model was made for, or set another with `img_size`.",
        ) from None


class _Runner(fx.Interpreter):
    def __init__(self, module: nn.Module, graph: fx.Graph, after_node: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(module, graph=graph)
        self.extra_traceback = False
        self.after_node = after_node

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple, dict]:
        # Tracing recorded the device of the weights wherever the model asked for it.
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return map_aggregate(  # type: ignore[return-value]
            (args, kwargs), lambda value: torch.device("meta") if isinstance(value, torch.device) else value
        )

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.after_node(n, value)
        return value


def shape_without_batch(value: Any) -> tuple[int, ...] | None:
    """The shape of a trial run's value, without the batch; None if it is no floating tensor with the batch first."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1 and value.shape[0] == TRIAL_BATCH:
        return tuple(value.shape[1:])
    return None


def layouts(
    traced: TracedModel, nodes: list[fx.Node], shapes: Shapes, input_shape: Shape3
) -> dict[fx.Node, Format | None]:
    """The formats of eval-mode nodes; None for a value that has none of the five.

    Args:
        traced: the model.
        nodes: nodes whose values are floating tensors with the batch first, in trace order.
        shapes: of eval mode, from a trial run.
        input_shape: (C, H, W) of the images.
    """
    graph = traced.graphs[False]
    larger: Shapes | None = None  # shapes for images of twice the size, run if they are needed
    formats: dict[fx.Node, Format | None] = {}
    prefix = _prefix_tokens(traced.model)
    for node in nodes:
        shape = shapes[node]
        if node is graph.input:
            formats[node] = Format("img", shape[0], shape[1:])  # type: ignore[arg-type]
        elif len(shape) == 1:
            formats[node] = Format("vector", shape[0])
        elif len(shape) == 2:
            flattened = _flattens_map(node, shapes, input_shape)
            formats[node] = None if flattened else _sequence(shape, prefix, input_shape)
        elif len(shape) == 3:
            kind = _by_equal_sides(shape) if input_shape[1] == input_shape[2] else None
            if kind is None:
                if larger is None:
                    larger = _shapes_twice_as_large(traced, input_shape)
                kind = _by_growth(shape, larger.get(node)) or _by_neighbours(graph, node, traced.model)
            formats[node] = (
                Format("img", shape[0], shape[1:]) if kind == "img" else Format("bhwc", shape[2], shape[:2])  # type: ignore[arg-type]
            )
        else:
            formats[node] = None
    return formats


def _prefix_tokens(model: nn.Module) -> int | None:
    """The number of tokens before those of the image; None if the model does not say."""
    if (number := getattr(model, "num_prefix_tokens", None)) is not None:  # of timm's models
        return number
    return 1 if hasattr(model, "class_token") else None


def _sequence(shape: tuple[int, ...], prefix: int | None, input_shape: Shape3) -> Format | None:
    """The format of (L, C): `bert` if only the tokens after a prefix make up a map; None if C comes first."""
    length, channels = shape
    if _is_map(length, input_shape):
        return Format("token", channels, length)
    prefix = prefix or 1
    if length > prefix and _is_map(length - prefix, input_shape):
        return Format("bert", channels, length - prefix, prefix)
    return None if _is_map(channels, input_shape) else Format("token", channels, length)


def _is_map(length: int, input_shape: Shape3) -> bool:
    """Whether this number of positions makes up a map of the image's aspect ratio."""
    _, height, width = input_shape
    unit = math.gcd(height, width)
    ratio = (height // unit) * (width // unit)
    return length % ratio == 0 and math.isqrt(length // ratio) ** 2 == length // ratio


def _flattens_map(node: fx.Node, shapes: Shapes, input_shape: Shape3) -> bool:
    """Whether (N, C, H*W) is a flattened (N, C, H, W): a sequence with channels first."""
    before = shapes.get(node.all_input_nodes[0], ()) if node.target in ("flatten", "reshape", "view") else ()
    return (
        len(before) == 3
        and shapes[node] == (before[0], before[1] * before[2])
        and before[1] * input_shape[2] == before[2] * input_shape[1]
    )


def _by_equal_sides(shape: tuple[int, ...]) -> str | None:
    """The layout with a square map, as the image is square; None if both or neither fits."""
    first, middle, last = shape
    if (first == middle) == (middle == last):
        return None
    return "img" if middle == last else "bhwc"


def _by_growth(shape: tuple[int, ...], larger: tuple[int, ...] | None) -> str | None:
    """The layout whose channels are the dimension that does not grow with the image; None if undecided."""
    if larger is None or shape == larger:
        return None
    if shape[0] == larger[0]:
        return "img"
    return "bhwc" if shape[2] == larger[2] else None


def _shapes_twice_as_large(traced: TracedModel, input_shape: Shape3) -> Shapes:
    channels, height, width = input_shape
    shapes: Shapes = {}

    def add_shape(node: fx.Node, value: Any) -> None:
        if (shape := shape_without_batch(value)) is not None:
            shapes[node] = shape

    try:
        with torch.no_grad():
            run_on_meta(traced, False, (TRIAL_BATCH, channels, 2 * height, 2 * width), add_shape)
        return shapes
    except UserError:  # the model takes one size only
        return {}


def _by_neighbours(graph: ModeGraph, node: fx.Node, model: nn.Module) -> str:
    """The layout that the modules before and after the value work on."""
    for neighbour in (node, *node.users):
        if neighbour.op == "call_module":
            module = model.get_submodule(str(neighbour.target))
            if isinstance(module, (nn.LayerNorm, nn.Linear)):
                # timm's LayerNorm2d, a subclass, normalises the channels of (N, C, H, W).
                return "img" if type(module).__name__.endswith("2d") else "bhwc"
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d)):
                return "img"
    return "img"
