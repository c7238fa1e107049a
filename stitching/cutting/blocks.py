"""The blocks of a model: the repeated units of its stages, read from its module tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from math import prod

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stitching.cutting.cut_points import CutPoint, cut_points
from stitching.cutting.tracing import TracedModel

__all__ = ["Block", "area", "find_blocks"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Block:
    """A repeated unit of a model.

    Attributes:
        name: the path of its module, or the name of the node that ends it.
        output: the cut point that it ends in.
    """

    name: str
    output: CutPoint


def find_blocks(traced: TracedModel) -> list[Block]:
    """The blocks of a model whose outputs are cut points, in order.

    A block is a composite module (with a forward and children of its own) in a container (a Sequential or the like).
    A composite module that itself holds a row of composite modules is a stage, and those are the blocks. A model
    without such blocks has its own composite children as blocks, or else the ends of its resolution changes.
    """
    points = [point for point in cut_points(traced) if point.layout and point.layout.kind != "vector"]
    by_name = {point.name: point for point in points}
    graph = traced.graphs[False]

    def block_at(path: str) -> list[Block]:
        nodes = graph.of_module(path)
        name = graph.names[nodes[-1]] if nodes else ""
        return [Block(path, by_name[name])] if name in by_name else []

    blocks = _without_single_layers(traced.model, _in_order(_descend(traced.model, "", block_at)))
    if len(blocks) < 2:
        children = traced.model.named_children()
        blocks = _in_order(block for name, child in children if _is_composite(child) for block in block_at(name))
    return blocks if len(blocks) > 1 else _resolution_changes(points)


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
    """Whether a composite module holds a row of blocks."""
    return _is_row(module) or any(
        _is_container(child) and len(child) and all(map(_is_composite, child.children()))  # type: ignore[arg-type]
        for child in module.children()
    )


def _is_plain(module: nn.Module) -> bool:
    """A Sequential of layers only."""
    return _is_container(module) and not any(next(child.children(), None) for child in module.children())


def _descend(module: nn.Module, path: str, block_at: Callable[[str], list[Block]]) -> list[Block]:
    """The blocks below a module."""
    children = {f"{path}.{name}" if path else name: child for name, child in module.named_children()}
    holds_blocks = _is_container(module) or (bool(path) and _is_row(module))
    # A row of plain Sequentials, and nothing else, is a row of blocks as well (as in our own convnet).
    plain = holds_blocks and len(children) > 1 and all(map(_is_plain, children.values()))
    blocks: list[Block] = []
    for name, child in children.items():
        if plain:
            blocks += block_at(name)
        elif _is_container(child):
            blocks += _descend(child, name, block_at)
        elif _is_composite(child):
            inner = _descend(child, name, block_at) if _is_stage(child) else []
            blocks += inner or (block_at(name) if holds_blocks else [])
    return blocks


def _without_single_layers(model: nn.Module, blocks: list[Block]) -> list[Block]:
    """Leave out blocks with a single matrix or kernel, unless it is a resolution's only block.

    These are a stem's convolutions and the patch merging between Swin's stages. Models of nothing else keep them.
    """

    def is_deep(block: Block) -> bool:
        return sum(weight.dim() > 1 for weight in model.get_submodule(block.name).parameters()) > 1

    def is_among_layers(block: Block) -> bool:
        siblings = model.get_submodule(block.name.rpartition(".")[0]).children()
        return not all(_is_composite(sibling) or _is_container(sibling) for sibling in siblings)

    deep = [block for block in blocks if is_deep(block)]
    areas = {area(block.output) for block in deep}
    kept = [b for b in blocks if b in deep or not (area(b.output) in areas or is_among_layers(b))]
    return kept if len(deep) > 1 else blocks


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
