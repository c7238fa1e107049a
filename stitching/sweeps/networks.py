"""The network of a stitch, as YAML: an ordinary one, a control, or a whole network to compare them with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from stitching.sweeps.staged_models import Stage, StagedModel, Stitch, subnets
from stitching.sweeps.stitchers import STITCHERS, AdapterPlan, Interface

__all__ = ["controls_of", "network_of", "whole_model", "whole_networks"]

IDENTITY = "identity"  # the adapter of a self-stitch: it computes nothing, so that equal is equal on every device


def network_of(stitch: Stitch) -> dict[str, Any]:
    """The network of a stitch, as YAML: src[:a] + adapter + dest[b+1:], or what its control puts in their place.

    - `base`: the whole destination;
    - `self`: all of one network, with an identity where it is cut;
    - `random_source`, `random_dest`: the source or the destination with the weights of a network that was not trained
      (`stitching.models.random_networks`);
    - `adapter_only`: the source and the adapter, then a fresh linear head in the place of the destination.

    Raises:
        Declined: there is none.
    """
    if stitch.control == "base":
        return {"Net": {**(whole_model(stitch.dest) or {}), "frozen": True}}
    first, last = stitch.gap
    front, back = stitch.source.stages[:first], stitch.dest.stages[last + 1 :]
    if stitch.control == "self":
        return _assembly([*subnets(front, frozen=True), {"Function": {"name": IDENTITY}}, *subnets(back, frozen=True)])
    recipe = STITCHERS[stitch.stitcher]
    if recipe.stages:
        return _assembly(subnets(recipe.stages(stitch), frozen=False))
    assert recipe.adapter is not None
    bridge = recipe.adapter(Interface(front[-1].out_format, back[0].in_format, stitch.num_downsamples))
    if stitch.control == "adapter_only":
        return _assembly([*subnets(front, frozen=True), *bridge.parts], head={"ClassifierHead": {}})
    source, dest = subnets(front, frozen=True), _behind(bridge, back)
    return _assembly(
        [
            *(_untrained(source) if stitch.control == "random_source" else source),
            *bridge.parts,
            *(_untrained(dest) if stitch.control == "random_dest" else dest),
        ]
    )


def _behind(bridge: AdapterPlan, back: tuple[Stage, ...]) -> list[dict[str, Any]]:
    return subnets(back, frozen=True, in_format=bridge.dest_format)


def _untrained(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for part in parts:
        for key in ("ckp_path", "weights"):
            part["Subnet"].pop(key, None)
        part["Subnet"] |= {"pretrained": False, "random": True}
    return parts


def _assembly(parts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"Assembly": {"parts": parts, **more}}


# ------------------------------------------------------------------------ what stitches are compared with


def whole_model(row: StagedModel) -> dict[str, Any] | None:
    """The model's YAML keys, if the row is one whole model; a user may have typed out stages of another kind."""
    first, last = row.stages[0], row.stages[-1]
    joined = all(left.end == right.start for left, right in itertools.pairwise(row.stages))
    same_model = all(stage.model == first.model for stage in row.stages)
    return first.model if same_model and joined and first.start == 0 and last.block_output is None else None


def whole_networks(stitches: Iterable[Stitch]) -> list[Stitch]:
    """A stitch for each whole network among sources and destinations: it is tested, and gives the base accuracy."""
    rows = {row.title: row for stitch in stitches for row in (stitch.source, stitch.dest)}
    return [Stitch(row, row, (0, -1), 0, "", "base") for row in rows.values() if whole_model(row)]


def controls_of(stitches: Iterable[Stitch], controls: Iterable[str]) -> Iterator[Stitch]:
    """The controls of ordinary stitches.

    `self` is one for each whole network and place where it is cut; the others are one for each stitch, but of stitchers
    that freeze nothing, and of fitted adapters without the destination to which they would be fitted.
    """
    stitches = list(stitches)
    for control in controls:
        if control == "self":
            yield from _self_stitches(stitches)
            continue
        for stitch in stitches:
            recipe = STITCHERS[stitch.stitcher]
            if recipe.adapter and not (recipe.is_fitted and control == "adapter_only"):
                yield replace(stitch, control=control)


def _self_stitches(stitches: Iterable[Stitch]) -> Iterator[Stitch]:
    cuts = {(row.title, cut) for stitch in stitches for row, cut in _cuts(stitch)}
    rows = {row.title: row for stitch in stitches for row in (stitch.source, stitch.dest) if whole_model(row)}
    for title, row in rows.items():
        for cut in sorted(cut for named, cut in cuts if named == title):
            yield Stitch(row, row, (cut, cut - 1), 0, IDENTITY, "self")


def _cuts(stitch: Stitch) -> list[tuple[StagedModel, int]]:
    """Where the stitch's networks are cut, as the number of stages before the cut."""
    first, last = stitch.gap
    return [(stitch.source, first), (stitch.dest, last + 1)]
