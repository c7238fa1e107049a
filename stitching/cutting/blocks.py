"""The blocks of a model: the repeated units of its stages, read from its module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stitching.cutting.cut_points import CutPoint, cut_points
from stitching.cutting.flow import content_flow
from stitching.cutting.tracing import Shape3, TracedModel

__all__ = ["Block", "Boundary", "area", "boundaries", "find_blocks"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
Unit = TypeVar("Unit")


@dataclass(frozen=True)
class Block:
    """A repeated unit of a model.

    Attributes:
        name: the path of its module, or the name of the node that ends it.
        output: the cut point that it ends in.
    """

    name: str
    output: CutPoint


@dataclass(frozen=True)
class Boundary:
    """The end of a block.

    Attributes:
        block: the path of its module, or the name of the node that ends it.
        position: of the last node before it.
        point: the cut point there, None if the model cannot be cut there.
        crossing: the names of the values that carry the images' content across.
        shapes: theirs, without the batch; None for one that is no floating tensor with the batch first.
    """

    block: str
    position: int
    point: CutPoint | None
    crossing: tuple[str, ...]
    shapes: tuple[tuple[int, ...] | None, ...]


def find_blocks(traced: TracedModel) -> list[Block]:
    """The blocks of a model whose outputs are cut points, in order.

    A block is a composite module (with a forward and children of its own) in a container (a Sequential or the like).
    A composite module that itself holds a row of composite modules is a stage, and those are the blocks. A model
    without such blocks has its own composite children as blocks, or else the ends of its resolution changes.
    """
    points = [point for point in cut_points(traced) if point.layout and point.layout.kind != "vector"]
    by_name = {point.name: point for point in points}
    graph, flow = traced.graphs[False], content_flow(traced, False, traced.input_shape)

    def block_at(path: str) -> list[Block]:
        nodes = graph.of_module(path)
        crossing = flow.crossing(graph.position[nodes[-1]]) if nodes else []
        if len(crossing) == 1 and crossing[0] in nodes and (name := graph.names[crossing[0]]) in by_name:
            return [Block(path, by_name[name])]
        return []

    blocks = _without_single_layers(traced.model, _in_order(_descend(traced.model, "", block_at)))
    if len(blocks) < 2:
        blocks = _in_order(block for name in _composite_children(traced.model) for block in block_at(name))
    return blocks if len(blocks) > 1 else _resolution_changes(points)


def boundaries(traced: TracedModel, input_shape: Shape3 | None = None) -> list[Boundary]:
    """The ends of all blocks in order, whether the model can be cut there or not.

    A row of modules inside a larger one, fewer than half of whose ends before the last are cut points, is a branch or a
    bundle of branches of that module: the larger module is the block.
    """
    graph = traced.graphs[False]
    flow = content_flow(traced, False, input_shape or traced.input_shape)
    points = {point.name: point for point in cut_points(traced, input_shape)}

    def boundary_at(path: str) -> list[Boundary]:
        nodes = graph.of_module(path)
        return [boundary(path, graph.position[nodes[-1]])] if nodes else []

    def boundary(block: str, position: int) -> Boundary:
        crossing = flow.crossing(position)
        names = tuple(graph.names[node] for node in crossing)
        shapes = tuple(flow.shapes.get(node) for node in crossing)
        return Boundary(block, position, points.get(names[0]) if len(names) == 1 else None, names, shapes)

    def is_chain(row: list[Boundary]) -> bool:
        return len(row) > 1 and 2 * sum(end.point is not None for end in row[:-1]) >= len(row) - 1

    ends = _descend(traced.model, "", boundary_at, is_chain)
    deep = [end for end in ends if _weights(traced.model, end.block) > 1]
    if len(ends := deep if len(deep) > 1 else ends) < 2:
        ends = [end for name in _composite_children(traced.model) for end in boundary_at(name)]
    if len(ends) < 2:
        ends = [boundary(b.name, graph.position[graph.by_name[b.output.name]]) for b in find_blocks(traced)]
    by_position = {end.position: end for end in reversed(ends)}
    return [by_position[position] for position in sorted(by_position)]


def _is_container(module: nn.Module) -> bool:
    """A Sequential or the like, also a subclass, unless it has a forward of its own."""
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in _CONTAINERS)


def _is_composite(module: nn.Module) -> bool:
    """A module with a forward and children of its own; timm's norms with an activation inside are layers."""
    is_layer = _is_container(module) or isinstance(module, _NORMS)
    return not is_layer and next(module.children(), None) is not None


def _is_row(module: nn.Module) -> bool:
    """Composite modules of one class under other names: a container in all but type (as in timm's RegNet)."""
    children = list(module.children())
    return all(map(_is_composite, children)) and len(set(map(type, children))) == 1


def _is_stage(module: nn.Module) -> bool:
    """Whether a composite module holds a row of blocks, or of rows of blocks (as in DaViT)."""
    return _is_row(module) or any(_is_container(child) and _holds_blocks(child) for child in module.children())


def _holds_blocks(container: nn.Module) -> bool:
    children = list(container.children())
    return bool(children) and all(
        _holds_blocks(child) if _is_container(child) else _is_composite(child) for child in children
    )


def _is_plain(module: nn.Module) -> bool:
    """A Sequential of layers only."""
    return _is_container(module) and not any(next(child.children(), None) for child in module.children())


def _composite_children(model: nn.Module) -> list[str]:
    return [name for name, child in model.named_children() if _is_composite(child)]


def _descend(
    module: nn.Module, path: str, block_at: Callable[[str], list[Unit]], is_row: Callable[[list[Unit]], bool] = bool
) -> list[Unit]:
    """What `block_at` gives for the blocks below a module.

    Where a row inside a module that could be a block itself is no row by `is_row`, the module is the block.
    """
    children = {f"{path}.{name}" if path else name: child for name, child in module.named_children()}
    holds_blocks = _is_container(module) or (bool(path) and _is_row(module))
    # A row of plain Sequentials, and nothing else, is a row of blocks as well (as in our own networks).
    plain = holds_blocks and len(children) > 1 and all(map(_is_plain, children.values()))
    blocks: list[Unit] = []
    for name, child in children.items():
        if plain:
            blocks += block_at(name)
        elif _is_container(child):
            blocks += _descend(child, name, block_at, is_row)
        elif _is_composite(child):
            inner = _descend(child, name, block_at, is_row) if _is_stage(child) else []
            blocks += inner if is_row(inner) else block_at(name) if holds_blocks else []
    return blocks


def _without_single_layers(model: nn.Module, blocks: list[Block]) -> list[Block]:
    """Leave out blocks with a single matrix or kernel, unless it is a resolution's only block.

    These are a stem's convolutions and the patch merging between Swin's stages. Models of nothing else keep them.
    """

    def is_among_layers(block: Block) -> bool:
        siblings = model.get_submodule(block.name.rpartition(".")[0]).children()
        return not all(_is_composite(sibling) or _is_container(sibling) for sibling in siblings)

    deep = [block for block in blocks if _weights(model, block.name) > 1]
    areas = {area(block.output) for block in deep}
    kept = [b for b in blocks if b in deep or not (area(b.output) in areas or is_among_layers(b))]
    return kept if len(deep) > 1 else blocks


def _weights(model: nn.Module, path: str) -> int:
    """How many matrices and kernels a module has."""
    return sum(weight.dim() > 1 for weight in model.get_submodule(path).parameters())


def _in_order(blocks: Iterable[Block]) -> list[Block]:
    """Blocks in the order of computation, the first of those with the same output."""
    first: dict[int, Block] = {}
    for block in blocks:
        first.setdefault(block.output.index, block)
    return [first[index] for index in sorted(first)]


def _resolution_changes(points: list[CutPoint]) -> list[Block]:
    """For each resolution: its first cut point, and its last."""
    blocks: list[Block] = []
    for positions, points_of_area in groupby(points[1:], area):
        first, *rest = points_of_area
        if positions > 1 or not blocks:  # a single position is the head's
            blocks += [Block(point.name, point) for point in (first, *rest[-1:])]
    return blocks


def area(point: CutPoint) -> int:
    """How many positions the map of a cut point has."""
    size = point.format.size
    return prod(size) if isinstance(size, tuple) else size or 1
