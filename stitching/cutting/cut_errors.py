"""The errors for places where a model cannot be cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import fx

from stitching.config.errors import UserError, unknown_name
from stitching.cutting.tracing import TracedModel, paths_to

if TYPE_CHECKING:
    from stitching.cutting.cut_points import CutPoint

__all__ = ["no_cut_point", "unknown_place"]


def unknown_place(traced: TracedModel, name: str) -> UserError:
    """The error for a name that is no node or module, or one that takes no part in the main output."""
    graph = traced.graphs[False]
    paths = {parent for node in graph.dependent if node in graph.owners for parent in paths_to(graph.owners[node])}
    if name in dict(traced.model.named_modules()):
        return UserError(
            f"{name!r} in {traced.title} is not used for its output",
            do="Name a module that the main output depends on.",
        )
    return unknown_name(f"node or module in {traced.title}", name, {*graph.by_name, *paths})


def no_cut_point(
    traced: TracedModel, side: str, name: str, value: fx.Node, crossing: list[fx.Node], points: list[CutPoint]
) -> UserError:
    """The error that lists the values that cross where only `value` should, and the nearest cut points."""
    graph = traced.graphs[False]
    position = graph.position[crossing[-1]]
    before = [p for p in points if graph.position[graph.by_name[p.name]] <= position]
    after = [p for p in points if graph.position[graph.by_name[p.name]] > position]
    nearest = " and ".join([repr(p.name) for p in (*before[-1:], *after[:1])])
    names = ", ".join(graph.names[node] for node in crossing[:6]) + (", ..." if len(crossing) > 6 else "")
    do = f"The nearest cut points are the values of {nearest}."
    if len(crossing) > 1:
        ends = {"input": "in_format", "output": "out_format"}
        do += f" Or carry all of these from one Subnet to the next with `{ends[side]}: tuple` here."
        why = f"{len(crossing)} values cross there ({names})"
    elif crossing[0] is not value:
        why = f"the value of {names} crosses there, not its own"
    else:
        why = f"{names} crosses there; it is no floating tensor with the batch first, or is not alone in train mode"
    return UserError(f"the {side} of {name!r} in {traced.title} is no cut point: {why}", do=do)
