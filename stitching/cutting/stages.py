"""The stages of a model, between which a sweep cuts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from stitching.config.errors import UserError, at
from stitching.cutting.blocks import Block, area, find_blocks
from stitching.cutting.cut_points import CutPoint, cut_points, resolve
from stitching.cutting.formats import Format
from stitching.cutting.tracing import Shape3, TracedModel, paths_to

__all__ = ["Block", "Depths", "Stage", "find_blocks", "find_stages"]

Depths = str | Sequence[str]  # "stages", "blocks", or the names of cut points

_GROUPS = 4  # how many resolutions are cut; a model of a single one is cut into as many parts


@dataclass(frozen=True)
class Stage:
    """One of the pieces that a model is cut into: the names of its ends, and the formats there.

    `block_input` and `block_output` mean what they mean in the config of a `Subnet`.
    """

    name: str
    block_input: str
    block_output: str
    in_format: Format
    out_format: Format


def find_stages(traced: TracedModel, depths: Depths = "stages", input_shape: Shape3 | None = None) -> list[Stage]:
    """The whole model as pieces in a row, from its input to its output, heads included.

    `stages` gives two pieces for each of the last four resolutions: the block that changes it, with what is before it,
    and the rest. Models of one resolution are cut in four parts likewise. Earlier layers belong to the first piece, the
    head to the last. `blocks` gives a piece for each block. A list of names (of modules or nodes) cuts after each.

    Formats depend on the size of the images, cut points do not.

    Args:
        traced: the model.
        depths: `stages`, `blocks` or names.
        input_shape: (C, H, W) of the images; the model's own by default.

    Raises:
        UserError: for names that are no cut points or not in order, and images that the model cannot take.
    """
    blocks = find_blocks(traced)
    inner: list[CutPoint]
    if depths == "stages":
        inner = _stage_ends(blocks)[:-1]
    elif depths == "blocks":
        inner = [block.output for block in blocks[:-1]]
    elif isinstance(depths, str):
        raise UserError(f"depths is {depths!r}", allowed="stages, blocks, or a list of names in the model")
    else:
        inner = _named(traced, depths)
    points = cut_points(traced, input_shape)
    by_name = {point.name: point for point in points}
    ends = [points[0], *(by_name[point.name] for point in inner), points[-1]]
    names = {block.name for block in blocks}
    stages = []
    for start, end in pairwise(ends):
        entry, leave = _input_name(traced, start, names), _output_name(traced, end)
        name = leave if entry == leave else f"{entry}-{leave}"
        stages.append(Stage(name, entry, leave, start.format, end.format))
    return stages


def _stage_ends(blocks: list[Block]) -> list[CutPoint]:
    """Where the pieces end: after the first and the last block of each group."""
    groups = [list(group) for _, group in groupby((block.output for block in blocks), area)]
    if len(groups) == 1:
        whole, parts = groups[0], min(_GROUPS, len(groups[0]))
        bounds = [round(part * len(whole) / parts) for part in range(parts + 1)]
        groups = [whole[start:stop] for start, stop in pairwise(bounds)]
    return [end for group in groups[-_GROUPS:] for end in dict.fromkeys((group[0], group[-1]))]


def _named(traced: TracedModel, names: Sequence[str]) -> list[CutPoint]:
    """The cut points that end the named modules and nodes, without the model's end."""
    last = cut_points(traced)[-1]
    named: list[CutPoint] = []
    for position, name in enumerate(names):
        with at("depths", position):
            point = resolve(traced, name, "output")
            if point.index <= (named[-1].index if named else 0):
                raise UserError(
                    f"{name!r} does not come after {names[position - 1]!r}"
                    if named
                    else f"nothing comes before {name!r}",
                    do="List the names in the order of computation.",
                )
            named.append(point)
    return named[:-1] if named and named[-1] == last else named


def _input_name(traced: TracedModel, point: CutPoint, blocks: set[str]) -> str:
    """The `block_input` of a piece that starts at `point`: a block, else the outermost module, else a node."""
    if point.index == 0:
        return point.name
    graph = traced.graphs[False]
    start = graph.position[graph.by_name[point.name]] + 1
    following = next(node for node in graph.nodes[start:] if node in graph.dependent)
    modules = [path for path in paths_to(graph.owners[following]) if graph.of_module(path)[0] is following]
    candidates = [path for path in modules if path in blocks] + modules
    return _first_meaning(traced, point, "input", [*candidates, graph.names[following]])


def _output_name(traced: TracedModel, point: CutPoint) -> str:
    """The `block_output` of a piece that ends at `point`: the outermost module, else the node."""
    return _first_meaning(traced, point, "output", [*paths_to(point.module), point.name])


def _first_meaning(traced: TracedModel, point: CutPoint, side: Literal["input", "output"], names: list[str]) -> str:
    """The first of the names that means this cut point; the last name always does."""
    for name in names[:-1]:
        try:
            if resolve(traced, name, side).index == point.index:
                return name
        except UserError:
            continue
    return names[-1]
