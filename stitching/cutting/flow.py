"""Where the content of the images flows in a graph, and which values follow from the size of the images alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stitching.cutting.shapes import TRIAL_BATCH, Shapes, run_on_meta, shape_without_batch
from stitching.cutting.tracing import ModeGraph, Shape3, TracedModel

__all__ = ["ContentFlow", "PerImage", "ShapeOf", "content_flow", "size_values"]

_OTHER_BATCH = 7  # to see which sizes follow the number of images


@dataclass(frozen=True)
class PerImage:
    """A size that is a multiple of the number of images."""

    times: int


@dataclass(frozen=True)
class ShapeOf:
    """A `torch.Size` with such multiples in it."""

    sizes: tuple[int | PerImage, ...]


@dataclass(eq=False)
class ContentFlow:
    """The lifetimes of the values of one mode's graph that carry what the images show.

    Attributes:
        graph: the mode's graph.
        content: the nodes whose value depends on the content of the input, not on its size alone.
        sizes: the nodes whose value holds no tensor and follows from the size of the input.
        shapes: of the values that are floating tensors with the batch first, without the batch.
        last_use: the position at which the content of each node's value is last used, -1 if never.
    """

    graph: ModeGraph
    content: set[fx.Node]
    sizes: set[fx.Node]
    shapes: Shapes
    last_use: dict[fx.Node, int] = field(init=False)

    def __post_init__(self) -> None:
        position = self.graph.position
        self.last_use = {
            node: max((position.get(user, len(position)) for user in node.users if self._uses(user)), default=-1)
            for node in self.content
        }

    def _uses(self, user: fx.Node) -> bool:
        return user in self.content or user not in self.graph.position  # the output node has no position

    def crossing(self, position: int) -> list[fx.Node]:
        """The values that carry content, exist once the node at `position` has run, and are used later."""
        return [n for n in self.graph.nodes[: position + 1] if n in self.content and self.last_use[n] > position]

    def only_values(self) -> list[fx.Node]:
        """The nodes whose value is the only one that crosses right after it is computed: one liveness scan."""
        only_values: list[fx.Node] = []
        closing: dict[int, int] = {}  # position -> how many open values are last used there
        num_open = 0
        for position, node in enumerate(self.graph.nodes):
            num_open -= closing.pop(position, 0)
            if node in self.content and self.last_use[node] > position:
                num_open += 1
                closing[self.last_use[node]] = closing.get(self.last_use[node], 0) + 1
                if num_open == 1:
                    only_values.append(node)
        return only_values


def content_flow(traced: TracedModel, mode: bool, input_shape: Shape3, *, for_tuples: bool = False) -> ContentFlow:
    """How the content of images (C, H, W) flows in one mode's graph.

    A value depends on the size alone if it holds no tensor (a number, a shape, None), or is computed from such values
    without a random number. Sizes that are neither the same for any number of images nor a multiple of it count as
    content, as a piece of the model could not know them.

    Args:
        traced: the model.
        mode: which graph.
        input_shape: (C, H, W) of the images.
        for_tuples: follow sizes also where they accompany several values, not one.

    Raises:
        UserError: if the model cannot take images of this shape.
    """
    key = "content flow", mode, input_shape, for_tuples
    if key not in traced.cache:
        graph = traced.graphs[mode]
        if mode and not for_tuples and not _sizes_cross(content_flow(traced, False, input_shape)):
            flow = ContentFlow(graph, graph.dependent, set(), {})  # saves a run
        else:
            run = _TrialRun(traced, mode, input_shape, TRIAL_BATCH)
            flow = _flow(graph, run, set(run.without_tensors))
            if for_tuples or _sizes_cross(flow):  # so it matters how they follow the number of images
                flow = _flow(graph, run, set(size_values(traced, mode, input_shape)))
        traced.cache[key] = flow
    return traced.cache[key]  # type: ignore[no-any-return]


def size_values(traced: TracedModel, mode: bool, input_shape: Shape3) -> dict[fx.Node, Any]:
    """The values without tensors that follow from the size of images (C, H, W), with `PerImage` for multiples.

    Values that follow the number of images in another way are left out.
    """
    key = "size values", mode, input_shape
    if key not in traced.cache:
        first, second = (_TrialRun(traced, mode, input_shape, batch) for batch in (TRIAL_BATCH, _OTHER_BATCH))
        values = {}
        for node, value in first.without_tensors.items():
            try:
                values[node] = _merged(value, second.without_tensors[node])
            except (KeyError, ValueError):
                continue
        traced.cache[key] = values
    return traced.cache[key]  # type: ignore[no-any-return]


class _TrialRun:
    """What a run on the meta device shows of the values that depend on the input.

    Attributes:
        without_tensors: the values that hold no tensor.
        random: the nodes that draw random numbers.
        shapes: of floating tensors with the batch first, without the batch.
    """

    def __init__(self, traced: TracedModel, mode: bool, input_shape: Shape3, batch: int) -> None:
        self.without_tensors: dict[fx.Node, Any] = {}
        self.random: set[fx.Node] = set()
        self.shapes: Shapes = {}
        self._draws = _RandomDraws()
        self._dependent = traced.graphs[mode].dependent
        with torch.no_grad(), self._draws:
            run_on_meta(traced, mode, (batch, *input_shape), self._look_at)

    def _look_at(self, node: fx.Node, value: Any) -> None:
        if self._draws.any_since_last_look():
            self.random.add(node)
        if (shape := shape_without_batch(value)) is not None:
            self.shapes[node] = shape
        elif node in self._dependent and not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            self.without_tensors[node] = value


class _RandomDraws(TorchDispatchMode):
    """Notices operations that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._any = False

    def any_since_last_look(self) -> bool:
        drawn, self._any = self._any, False
        return drawn

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._any = self._any or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def _sizes_cross(flow: ContentFlow) -> bool:
    """Whether a value that carries content is anywhere accompanied by sizes alone."""
    graph = flow.graph
    return flow.only_values() != ContentFlow(graph, graph.dependent, set(), {}).only_values()


def _flow(graph: ModeGraph, run: _TrialRun, sizes: set[fx.Node]) -> ContentFlow:
    content = {graph.input}
    for node in graph.nodes[1:]:
        if node not in graph.dependent or node in sizes:
            continue
        if node in run.without_tensors or node in run.random or content.intersection(node.all_input_nodes):
            content.add(node)
    return ContentFlow(graph, content, sizes, run.shapes)


def _merged(first: Any, second: Any) -> Any:
    """One value for any number of images, from those for two numbers. Raises `ValueError` if there is none."""
    if type(first) is not type(second):
        raise ValueError
    if isinstance(first, torch.Size) and len(first) == len(second):
        return ShapeOf(_merged(tuple(first), tuple(second)))
    if isinstance(first, tuple | list) and type(first) in (tuple, list) and len(first) == len(second):
        return type(first)(_merged(*pair) for pair in zip(first, second, strict=True))
    if type(first) is int and first != second and first % TRIAL_BATCH == 0:
        times = first // TRIAL_BATCH
        if second == times * _OTHER_BATCH:
            return PerImage(times)
    if first != second:
        raise ValueError
    return first
