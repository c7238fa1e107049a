"""The graph of the piece between two values of a model, with the sizes that it needs from before it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from stitching.cutting.flow import ContentFlow, PerImage, ShapeOf
from stitching.cutting.subnet import check_map, check_size

__all__ = ["piece_graph"]

Nodes = Sequence[fx.Node]


def piece_graph(
    flow: ContentFlow,
    firsts: Nodes,
    lasts: Nodes,
    images: str,
    size_values: Callable[[], dict[fx.Node, Any]],
) -> tuple[fx.Graph, bool]:
    """The graph between two cuts, with everything it needs that does not depend on the images' content.

    Sizes of values before it are replaced: the number of images by that of the piece's input, others by constants. A
    piece with such constants checks the size of its input.

    Args:
        flow: of the mode's graph.
        firsts, lasts: the nodes of the values that cross at its start and at its end; several are passed as a tuple.
        images: the size of the images that the piece is made for, in words.
        size_values: gives the values without tensors for these images.

    Returns:
        The graph, and whether it is for these images only.
    """
    needed, replaced = _needed(flow, firsts, lasts)
    replaced_behind = _needed(flow, lasts, [flow.graph.result])[1]
    sizes = size_values() if replaced or replaced_behind else {}
    graph = fx.Graph()
    x = graph.placeholder("x")
    inputs = [graph.call_function(operator.getitem, (x, i)) for i in range(len(firsts))] if len(firsts) > 1 else [x]
    copies: dict[fx.Node, Any] = dict(zip(firsts, inputs, strict=True))
    first, last = (next((n for n in nodes if n in flow.shapes), nodes[-1]) for nodes in (firsts, lasts))
    x = copies[first]  # the one that shows the number of images
    sized = any(_is_for_one_size(sizes[node]) for node in replaced)
    if sized:
        graph.call_function(check_size, (x, flow.shapes[first], images))
    for node in flow.graph.nodes:
        if node in replaced:
            copies[node] = _in_piece(sizes[node], graph, x)
        elif node in needed and node not in firsts:
            copies[node] = graph.node_copy(node, lambda old: copies[old])
            copies[node].meta["dotted_name"] = flow.graph.names[node]
    if any(_is_for_one_size(sizes[node]) for node in replaced_behind):
        graph.call_function(check_map, (x, copies[last], flow.shapes[first], flow.shapes[last], images))
        sized = True
    outputs = tuple(copies[node] for node in lasts)
    graph.output(outputs if len(outputs) > 1 else outputs[0])
    _follow_device(graph, x)
    return graph, sized


def _needed(
    flow: ContentFlow, firsts: Sequence[fx.Node], lasts: Sequence[fx.Node]
) -> tuple[set[fx.Node], set[fx.Node]]:
    """The nodes that a piece is made of, and those of them to replace by their sizes."""
    whole = flow.graph
    start, end = (max(whole.position[node] for node in nodes) for nodes in (firsts, lasts))
    out_of_reach: set[fx.Node] = set()  # sizes that only values before the piece show
    for node in whole.nodes[: end + 1]:
        if node not in flow.sizes:
            continue
        inputs = whole.dependent.intersection(node.all_input_nodes)
        lost = any(i in flow.content and i not in firsts and whole.position[i] < start for i in inputs)
        if whole.position[node] < start or lost or inputs <= out_of_reach:
            out_of_reach.add(node)
    inside = whole.nodes[start + 1 : end + 1]
    needed = {*lasts, *(node for node in inside if not node.users and node not in out_of_reach)}
    for node in reversed(whole.nodes[: end + 1]):
        if node in needed and node not in firsts and node not in out_of_reach:
            needed.update(node.all_input_nodes)
    replaced = needed & out_of_reach
    return needed - replaced, replaced


def _is_for_one_size(value: Any) -> bool:
    """Whether a value follows from the size of the images, not from their number or the kind of tensor alone."""
    if isinstance(value, ShapeOf):
        value = value.sizes
    if isinstance(value, tuple | list):
        return any(_is_for_one_size(item) for item in value)
    return value != PerImage(1) and not isinstance(value, torch.dtype | torch.device | None)


def _in_piece(value: Any, graph: fx.Graph, x: fx.Node) -> Any:
    """A size as a piece has it, for its input `x`."""
    if isinstance(value, PerImage):
        batch = graph.call_method("size", (x, 0))
        return batch if value.times == 1 else graph.call_function(operator.mul, (batch, value.times))
    if isinstance(value, ShapeOf):
        return graph.call_function(torch.Size, ([_in_piece(size, graph, x) for size in value.sizes],))
    if isinstance(value, torch.dtype) and value.is_floating_point:
        return graph.call_function(getattr, (x, "dtype"))
    if type(value) in (tuple, list):
        return type(value)(_in_piece(item, graph, x) for item in value)
    return value


def _follow_device(graph: fx.Graph, x: fx.Node) -> None:
    """Replace devices that tracing recorded (those of the weights) by the device of the input."""
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
