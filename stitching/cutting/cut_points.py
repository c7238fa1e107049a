"""Cutting models: where a model can be cut, which cut point a name means, and the piece between two cut points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx
from torch.fx.node import map_aggregate

from stitching.config.errors import UserError, unknown_name
from stitching.cutting.formats import Format
from stitching.cutting.shapes import layouts, tensor_shapes
from stitching.cutting.subnet import CutModule
from stitching.cutting.tracing import ModeGraph, Shape3, TracedModel, paths_to, trace

__all__ = ["CutModule", "CutPoint", "TracedModel", "cut_points", "extract", "resolve", "trace"]

Side = Literal["input", "output"]


@dataclass(frozen=True)
class CutPoint:
    """A place in a model's graph where exactly one tensor carries everything that depends on the input.

    Attributes:
        name: the dotted name of the node that computes the tensor.
        index: its number among the model's cut points; 0 is the model's input.
        shape: of the tensor, without the batch.
        layout: the format, None if the tensor has none of ours (a sequence with channels first, say).
        module: the path of the module that the node belongs to, "" for the model itself.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    layout: Format | None
    module: str

    @property
    def format(self) -> Format:
        """The tensor's format.

        Raises:
            UserError: if it has none of ours.
        """
        if self.layout is None:
            raise UserError(
                f"the tensor at {self.name!r} ({'x'.join(map(str, self.shape))} for each image) is in no known format",
                allowed="img, bhwc, token, bert, vector",
                do="Cut the model a little before or after.",
            )
        return self.layout


def cut_points(traced: TracedModel, input_shape: Shape3 | None = None) -> list[CutPoint]:
    """Every place where the model can be cut, in trace order: the input first, the output last.

    A node is a cut point exactly when it is the only value that depends on the input, is defined so far and is used
    later, in the eval graph and (by the same name) in the train graph, and is a floating tensor with the batch first.

    Args:
        traced: the model.
        input_shape: (C, H, W) of the images, which shapes and formats depend on; the model's own by default.

    Raises:
        UserError: if the model cannot take images of this shape.
    """
    shape = input_shape or traced.input_shape
    if ("cut points", shape) not in traced.cache:
        graph, train = traced.graphs[False], traced.graphs[True]
        in_train = {train.names[node] for node in train.only_values()}
        shapes = tensor_shapes(traced, False, shape)
        nodes = [n for n in graph.only_values() if n in shapes and graph.names[n] in in_train]
        if graph.result not in nodes:
            raise UserError(f"{traced.title} does not return one floating tensor with the batch first in both modes")
        formats = layouts(traced, nodes, shapes, shape)
        traced.cache["cut points", shape] = [
            CutPoint(graph.names[node], index, shapes[node], formats[node], graph.owners[node])
            for index, node in enumerate(nodes)
        ]
    return list(traced.cache["cut points", shape])


def resolve(
    traced: TracedModel, name: str | None, side: Side = "output", input_shape: Shape3 | None = None
) -> CutPoint:
    """The cut point that a name means.

    As an input, a module or a node means the tensor that enters its first node; as an output, the value of its last
    node. The name of the model's input means the very start on both sides. None is the model's start or end. If a node
    and a module share a name (the module is called again later), the node is meant.

    Raises:
        UserError: if the name does not exist (suggests the nearest), or the model cannot be cut there (lists the values
            that cross).
    """
    points = cut_points(traced, input_shape)
    if name is None:
        return points[0] if side == "input" else points[-1]
    if name == traced.input_name:
        return points[0]
    graph = traced.graphs[False]
    nodes = [graph.by_name[name]] if name in graph.by_name else graph.of_module(name)
    if not nodes:
        raise _unknown(traced, name)
    if nodes[0] not in graph.dependent:
        raise UserError(f"{name!r} in {traced.title} does not depend on the input, so nothing can be cut there")
    position = graph.position[nodes[0]] - 1 if side == "input" else graph.position[nodes[-1]]
    crossing = graph.crossing(position)
    if len(crossing) == 1 and (side == "input" or crossing[0] is nodes[-1]):
        for point in points:
            if point.name == graph.names[crossing[0]]:
                return point
    value = nodes[-1] if side == "output" else crossing[0]
    raise _no_cut_point(traced, f"the {side} of {name!r}", value, crossing, points)


def extract(traced: TracedModel, start: CutPoint, end: CutPoint) -> CutModule:
    """The piece of the model between two of its cut points, as a module that shares nothing with the model.

    Raises:
        UserError: if the end does not come after the start.
    """
    if end.index <= start.index:
        raise UserError(
            f"in {traced.title} the output {end.name!r} does not come after the input {start.name!r}",
            do="Name a block_output that is computed from the block_input.",
        )
    graphs = {mode: _between(graph, start.name, end.name) for mode, graph in traced.graphs.items()}
    return CutModule(traced.model, traced.constants, graphs)


def _between(whole: ModeGraph, start: str, end: str) -> fx.Graph:
    """The graph from one value to another, with everything it needs that does not depend on the input."""
    first, last = whole.by_name[start], whole.by_name[end]
    inside = whole.nodes[whole.position[first] + 1 : whole.position[last] + 1]
    needed = {last, *(node for node in inside if not node.users)}  # without users: checks, changes of buffers
    for node in reversed(whole.nodes[: whole.position[last] + 1]):
        if node in needed and node is not first:
            needed.update(node.all_input_nodes)
    graph = fx.Graph()
    copies = {first: graph.placeholder("x")}
    for node in whole.nodes:
        if node in needed and node is not first:
            copies[node] = graph.node_copy(node, lambda old: copies[old])
    graph.output(copies[last])
    _follow_device(graph)
    return graph


def _follow_device(graph: fx.Graph) -> None:
    """Replace devices that tracing recorded (those of the weights) by the device of the input."""
    x = next(iter(graph.nodes))
    for node in list(graph.nodes):
        arguments = (node.args, node.kwargs)
        recorded: list[torch.device] = []
        map_aggregate(arguments, _collecting_devices(recorded))  # type: ignore[arg-type]
        if recorded:
            device = graph.create_node("call_function", getattr, (x, "device"))
            x.append(device)
            node.args, node.kwargs = map_aggregate(arguments, _replacing_devices(device))  # type: ignore[misc,assignment]


def _collecting_devices(devices: list[torch.device]) -> Callable[[Any], None]:
    return lambda argument: devices.append(argument) if isinstance(argument, torch.device) else None


def _replacing_devices(device: fx.Node) -> Callable[[Any], Any]:
    return lambda argument: device if isinstance(argument, torch.device) else argument


def _unknown(traced: TracedModel, name: str) -> UserError:
    graph = traced.graphs[False]
    paths = {parent for node in graph.dependent if node in graph.owners for parent in paths_to(graph.owners[node])}
    if name in dict(traced.model.named_modules()):
        return UserError(
            f"{name!r} in {traced.title} is not used for its output",
            do="Name a module that the main output depends on.",
        )
    return unknown_name(f"node or module in {traced.title}", name, {*graph.by_name, *paths})


def _no_cut_point(
    traced: TracedModel, what: str, value: fx.Node, crossing: list[fx.Node], points: list[CutPoint]
) -> UserError:
    """The error that lists the values that cross where only `value` should, and the nearest cut points."""
    graph = traced.graphs[False]
    position = graph.position[crossing[-1]]
    before = [p for p in points if graph.position[graph.by_name[p.name]] <= position]
    after = [p for p in points if graph.position[graph.by_name[p.name]] > position]
    nearest = " and ".join([repr(p.name) for p in (*before[-1:], *after[:1])])
    names = ", ".join(graph.names[node] for node in crossing[:6]) + (", ..." if len(crossing) > 6 else "")
    if len(crossing) > 1:
        why = f"{len(crossing)} values cross there ({names})"
    elif crossing[0] is not value:
        why = f"the value of {names} crosses there, not its own"
    else:
        why = f"{names} crosses there; it is no floating tensor with the batch first, or is not alone in train mode"
    return UserError(
        f"{what} in {traced.title} is no cut point: {why}", do=f"The nearest cut points are the values of {nearest}."
    )
