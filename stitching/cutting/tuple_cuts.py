"""Pieces of a model that take several tensors: where their values are, and for which images the tensors fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from torch import fx

from stitching.config.errors import UserError, at
from stitching.cutting.cut_errors import unknown_place
from stitching.cutting.cut_points import CutModule, CutPoint, extract
from stitching.cutting.flow import ContentFlow, content_flow
from stitching.cutting.formats import TupleFormat
from stitching.cutting.subnet import by
from stitching.cutting.tracing import Shape3, TracedModel

__all__ = ["extract_for_tuple", "values_to"]


def values_to(traced: TracedModel, names: Sequence[str], end: CutPoint) -> CutPoint:
    """Where a piece begins that takes the values of several modules or nodes, as a tuple in this order.

    Args:
        traced: the model.
        names: of modules or nodes, two or more.
        end: where the piece ends.

    Raises:
        UserError: a name does not exist, two mean the same value, or `end` needs other values or not all of these.
    """
    graph = traced.graphs[False]
    flow = content_flow(traced, False, traced.input_shape, for_tuples=True)
    values: list[fx.Node] = []
    for i, name in enumerate(names):
        with at(i):
            value = _value(traced, flow, name)
            if value in values:
                raise UserError(f"{name!r} means the value of {names[values.index(value)]!r} once more")
            values.append(value)
    value_names = [graph.names[node] for node in values]
    for mode, mode_graph in traced.graphs.items():
        if not {*value_names, *end.also, end.name} <= mode_graph.by_name.keys():
            raise UserError(f"{traced.title} computes other values in train mode than {', '.join(value_names)}")
        _check_sufficient(
            content_flow(traced, mode, traced.input_shape, for_tuples=True),
            [mode_graph.by_name[name] for name in value_names],
            [mode_graph.by_name[name] for name in (*end.also, end.name)],
        )
    if not any(node in flow.shapes for node in values):
        raise UserError(f"none of the values of {', '.join(names)} is a floating tensor with the batch first")
    *also, last = value_names
    shape = flow.shapes.get(values[-1], ())
    return CutPoint(last, -1, shape, None, graph.owners[values[-1]], traced.input_shape, tuple(also))


def _value(traced: TracedModel, flow: ContentFlow, name: str) -> fx.Node:
    """The value of a node, or of the last node of a module."""
    graph = traced.graphs[False]
    nodes = [graph.by_name[name]] if name in graph.by_name else graph.of_module(name)
    if not nodes:
        raise unknown_place(traced, name)
    carriers = [node for node in nodes if node in flow.content]
    if not carriers:
        raise UserError(f"{name!r} in {traced.title} does not depend on what the images show")
    return carriers[-1]


def _check_sufficient(flow: ContentFlow, firsts: list[fx.Node], lasts: list[fx.Node]) -> None:
    """Raise if the values at the end of a piece do not follow from those at its start, all of them."""
    graph = flow.graph
    needed = set(lasts)
    for node in reversed(graph.nodes):
        if node in needed and node not in firsts:
            needed.update(node.all_input_nodes)
    from_images, from_firsts = {graph.input}, set(firsts)
    for node in graph.nodes:
        if node in flow.content and from_images.intersection(node.all_input_nodes):
            from_images.add(node)
        if from_firsts.intersection(node.all_input_nodes):
            from_firsts.add(node)
    others = [
        graph.names[node]
        for node in graph.nodes
        if node in needed & from_images - from_firsts and (node in lasts or from_firsts & needed & node.users.keys())
    ]
    ends, starts = (", ".join(graph.names[node] for node in nodes) for nodes in (lasts, firsts))
    if others:
        raise UserError(
            f"{ends} does not follow from {starts} alone: it needs {', '.join(others[:6])} as well",
            do="Name these too, or cut the model elsewhere.",
        )
    if unused := [graph.names[node] for node in firsts if node not in needed]:
        raise UserError(f"{ends} does not depend on {', '.join(unused)}", do="Leave out what is not needed.")


def extract_for_tuple(
    traced: TracedModel, start: CutPoint, end: CutPoint, tensors: TupleFormat, images: Iterable[Shape3 | None]
) -> tuple[CutModule, Shape3]:
    """The piece of the model between a start where several values cross and its end, and the images that it is for.

    Args:
        traced: the model.
        start, end: where the piece begins and ends.
        tensors: what it will get.
        images: (C, H, W) of images that these may be from; the model's own are tried last.

    Raises:
        UserError: the values at the start are not as many, or have other shapes.
    """
    expected: list[tuple[int, ...] | None] = []
    for shape in dict.fromkeys([*filter(None, images), traced.input_shape]):
        with suppress(UserError):  # the model may not take such images
            expected = _shapes(traced, start, shape)
            if len(expected) == len(tensors.shapes) and all(
                own in (None, other[1:]) for own, other in zip(expected, tensors.shapes, strict=True)
            ):
                break
    else:
        own = ", ".join(by(shape) if shape else "?" for shape in expected)
        raise UserError(
            f"the piece takes {len(start.also) + 1} tensors ({own}), and the part before gives {tensors}",
            do="Begin where values as many and as large cross: of the same model, or of one like it.",
        )
    return extract(traced, start, end, shape), shape


def _shapes(traced: TracedModel, point: CutPoint, images: Shape3) -> list[tuple[int, ...] | None]:
    """The shapes, without the batch, of the values at a cut point; None of one that has not the batch first."""
    flow = content_flow(traced, False, images, for_tuples=True)
    return [flow.shapes.get(flow.graph.by_name[name]) for name in (*point.also, point.name)]
