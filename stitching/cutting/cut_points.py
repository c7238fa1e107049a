"""Cutting models: where a model can be cut, which cut point a name means, and the piece between two cut points."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from stitching.config.errors import UserError
from stitching.cutting.cut_errors import no_cut_point, unknown_place
from stitching.cutting.extraction import piece_graph
from stitching.cutting.flow import content_flow, size_values
from stitching.cutting.formats import Format
from stitching.cutting.shapes import layouts
from stitching.cutting.subnet import CutModule, by
from stitching.cutting.tracing import Shape3, TracedModel, trace

__all__ = [
    "CutModule",
    "CutPoint",
    "TracedModel",
    "cut_points",
    "extract",
    "extract_for",
    "images_giving",
    "resolve",
    "trace",
]

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
        image_shape: (C, H, W) of the images that the shape and the format are for.
        also: the names of other values that cross there; with them, the cut carries a tuple, theirs first.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    layout: Format | None
    module: str
    image_shape: Shape3 = field(compare=False)
    also: tuple[str, ...] = ()

    @property
    def format(self) -> Format:
        """The tensor's format.

        Raises:
            UserError: if it has none of ours.
        """
        if self.layout is None:
            raise UserError(
                f"the tensor at {self.name!r} ({by(self.shape)} for each image) is in no known format",
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
        flow = content_flow(traced, False, shape)
        shapes = flow.shapes
        in_train = {train.names[node] for node in content_flow(traced, True, shape).only_values()}
        nodes = [n for n in flow.only_values() if n in shapes and graph.names[n] in in_train]
        if graph.result not in nodes:
            raise UserError(f"{traced.title} does not return one floating tensor with the batch first in both modes")
        formats = layouts(traced, nodes, shapes, shape)
        traced.cache["cut points", shape] = [
            CutPoint(graph.names[node], index, shapes[node], formats[node], graph.owners[node], shape)
            for index, node in enumerate(nodes)
        ]
    return list(traced.cache["cut points", shape])


def resolve(
    traced: TracedModel,
    name: str | None,
    side: Side = "output",
    input_shape: Shape3 | None = None,
    *,
    as_tuple: bool = False,
) -> CutPoint:
    """The cut point that a name means.

    As an input, a module or a node means the tensor that enters its first node; as an output, the value of its last
    node. The name of the model's input means the very start on both sides. None is the model's start or end. If a node
    and a module share a name (the module is called again later), the node is meant.

    With `as_tuple`, a place where several values cross is a cut point as well, with index -1 and no format: pieces take
    and return a tuple there.

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
        raise unknown_place(traced, name)
    flow = content_flow(traced, False, input_shape or traced.input_shape)
    if nodes[0] not in graph.dependent:
        raise UserError(f"{name!r} in {traced.title} does not depend on the input, so nothing can be cut there")
    carriers = [node for node in nodes if node in flow.content]
    if not carriers:
        raise UserError(
            f"{name!r} in {traced.title} depends on the size of the input only, so nothing can be cut there"
        )
    position = graph.position[nodes[0]] - 1 if side == "input" else graph.position[carriers[-1]]
    crossing = flow.crossing(position)
    if len(crossing) == 1 and (side == "input" or crossing[0] is carriers[-1]):
        for point in points:
            if point.name == graph.names[crossing[0]]:
                return point
    if as_tuple and len(crossing) > 1:
        return _tuple_point(traced, position, input_shape or traced.input_shape)
    value = carriers[-1] if side == "output" else crossing[0]
    raise no_cut_point(traced, side, name, value, crossing, points)


def _position(traced: TracedModel, point: CutPoint) -> int:
    graph = traced.graphs[False]
    return max(graph.position[graph.by_name[name]] for name in (*point.also, point.name))


def _tuple_point(traced: TracedModel, position: int, shape: Shape3) -> CutPoint:
    """The place behind the node at `position`, where several values cross.

    Raises:
        UserError: in train mode others cross, or none of them shows the number of images.
    """
    graph, train = traced.graphs[False], traced.graphs[True]
    flow = content_flow(traced, False, shape, for_tuples=True)
    crossing = flow.crossing(position)
    names = [graph.names[node] for node in crossing]
    last = train.by_name.get(names[-1])
    train_flow = content_flow(traced, True, shape, for_tuples=True)
    in_train = [train.names[node] for node in train_flow.crossing(train.position[last])] if last else []
    if names != in_train or not any(node in flow.shapes for node in crossing):
        raise UserError(
            f"{traced.title} cannot be cut where {', '.join(names)} cross: in train mode other values do, or none of "
            "them has the batch first"
        )
    *also, name = names
    return CutPoint(name, -1, flow.shapes.get(crossing[-1], ()), None, graph.owners[crossing[-1]], shape, tuple(also))


def extract(traced: TracedModel, start: CutPoint, end: CutPoint, image_shape: Shape3 | None = None) -> CutModule:
    """The piece of the model between two of its cut points, as a module that shares nothing with the model.

    Sizes that it needs and that its input does not show (the map that tokens make up) are those for images of one
    shape. Such a piece says so in `sized_for`, and stops on inputs of another size.

    Args:
        traced: the model.
        start, end: where the piece begins and ends.
        image_shape: (C, H, W) of the images; by default those that `start` is for.

    Raises:
        UserError: if the end does not come after the start, or the model cannot take images of this shape.
    """
    if _position(traced, end) <= _position(traced, start):
        raise UserError(
            f"in {traced.title} the output {end.name!r} does not come after the input {start.name!r}",
            do="Name a block_output that is computed from the block_input.",
        )
    shape = image_shape or start.image_shape
    graphs, sized = {}, False
    for mode, graph in traced.graphs.items():
        graphs[mode], for_one_size = piece_graph(
            content_flow(traced, mode, shape, for_tuples=bool(start.also or end.also)),
            [graph.by_name[name] for name in (*start.also, start.name)],
            [graph.by_name[name] for name in (*end.also, end.name)],
            by(shape),
            partial(size_values, traced, mode, shape),
        )
        sized = sized or for_one_size
    piece = CutModule(traced.model, traced.constants, graphs)
    if sized:
        piece.sized_for = shape
    return piece


def extract_for(traced: TracedModel, start: CutPoint, end: CutPoint, in_shape: tuple[int, ...]) -> CutModule:
    """The piece of the model between two cut points, for inputs of this shape (without the batch).

    Raises:
        UserError: as `extract`, or if the piece needs sizes that no images with such a tensor at `start` give.
    """
    piece = extract(traced, start, end)
    if piece.sized_for is None or in_shape == start.shape:
        return piece
    return extract(traced, start, end, images_giving(traced, start, in_shape))


def images_giving(traced: TracedModel, point: CutPoint, shape: tuple[int, ...]) -> Shape3:
    """(C, H, W) of the images for which the tensor at a cut point has this shape, without the batch.

    Raises:
        UserError: none give such a tensor.
    """
    channels, *sides = point.image_shape
    images = tuple(shape) if point.index == 0 else point.image_shape
    if point.index and point.layout and len(shape) == len(point.shape):
        maps = point.layout.spatial, Format.of(point.layout.kind, (1, *shape), point.layout.prefix).spatial
        if all(maps):
            height, width = (side * new // old for side, old, new in zip(sides, *maps, strict=True))  # type: ignore[arg-type]
            images = channels, height, width
    with suppress(UserError):
        if cut_points(traced, images)[point.index].shape == tuple(shape):  # type: ignore[arg-type]
            return images  # type: ignore[return-value]
    raise UserError(
        f"{traced.title} behind {point.name!r} needs the size of its images, and none give a tensor of "
        f"{by(shape)} there; {by(point.image_shape)} give {by(point.shape)}",
        do="Set the size in `in_format`, or cut the model elsewhere.",
    )
