"""What `stitching inspect` shows of a model: its cut points or its stages, with what lies before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stitching.config.yaml import parse_assignments, yaml_text
from stitching.cutting import cut_points
from stitching.cutting.blocks import Boundary, boundaries
from stitching.cutting.cost import cut_costs
from stitching.cutting.stages import find_stages
from stitching.models import building
from stitching.models.spec import ModelSpec

__all__ = ["Inspection", "inspect_model"]

_SHOWN = 6  # blocks that cannot be cut


@dataclass(frozen=True)
class Inspection:
    """A model's stages or cut points, a mapping for each, and how to show them."""

    title: str
    model: dict[str, Any]
    entries: list[dict[str, Any]]
    is_stages: bool
    uncut: list[dict[str, Any]]  # of stages: the blocks at whose ends the model cannot be cut, and what crosses there
    num_blocks: int

    @property
    def columns(self) -> list[str]:
        """The headings of the table."""
        if self.is_stages:
            return ["stage", "block_input", "block_output", "in", "out", "Mparams", "GMACs"]
        return ["", "cut point", "format", "size", "Mparams before", "after", "GMACs before", "after"]

    @property
    def rows(self) -> list[list[str]]:
        """The table's rows."""
        if self.is_stages:
            return [
                [
                    str(i), p["block_input"], p["block_output"], _words(p["in_format"]), _words(p["out_format"]),
                    f"{p['parameters'] / 1e6:.3f}", f"{p['macs'] / 1e9:.4f}",
                ]
                for i, p in enumerate(self.entries)
            ]  # fmt: skip
        return [
            [
                str(i), p["name"], p["format"] or "other", "x".join(map(str, p["size"])),
                *(f"{p[key] / 1e6:.3f}" for key in ("parameters_before", "parameters_after")),
                *(f"{p[key] / 1e9:.4f}" for key in ("macs_before", "macs_after")),
            ]
            for i, p in enumerate(self.entries)
        ]  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        uncut = {"blocks": self.num_blocks, "uncut_blocks": self.uncut} if self.is_stages else {}
        return {"model": self.title, "stages" if self.is_stages else "cut_points": self.entries, **uncut}

    @property
    def notes(self) -> list[str]:
        """What the table does not show: the blocks at whose ends the model cannot be cut."""
        if not self.uncut:
            return []
        lines = [f"{len(self.uncut)} of {self.num_blocks} blocks end where the model cannot be cut:"]
        for block in self.uncut[:_SHOWN]:
            sizes = ["x".join(map(str, value["size"] or ["of another kind"])) for value in block["crossing"]]
            values = [f"{value['name']} {size}" for value, size in zip(block["crossing"], sizes, strict=True)]
            lines.append(f"  {block['block']}: {' and '.join(values)} cross" + ("es" if len(values) == 1 else ""))
        if len(self.uncut) > _SHOWN:
            lines.append(f"  and {len(self.uncut) - _SHOWN} more (--json lists all)")
        return lines

    def as_yaml(self) -> str:
        """The stages as a sweep's `stages:`."""
        keys = ("block_input", "block_output", "in_format", "out_format")
        stages = [{"Subnet": {**self.model, **{key: entry[key] for key in keys}}} for entry in self.entries]
        return yaml_text({"stages": stages}, default_flow_style=None, width=110)


def inspect_model(
    name: str, arguments: Sequence[str] = (), *, image_size: int | None = None, stages: bool = False
) -> Inspection:
    """Look at a model on the meta device: no weights are loaded.

    Args:
        name: `timm/resnet50`, `torchvision/swin_t`, `local/smallnet`, `module:my_models.py:make_net`.
        arguments: `KEY=VALUE` for the model's constructor.
        image_size: pixels on a side; the model's own by default.
        stages: list the stages that a sweep would use, not every cut point.

    Raises:
        UserError: there is no such model or argument, or it cannot be cut.
    """
    args = parse_assignments(arguments, "--arg", "img_size=32")
    spec = ModelSpec.parse(name, **args)
    traced = cut_points.trace(building.build_meta(spec))
    channels, height, width = traced.input_shape
    shape = (channels, image_size or height, image_size or width)
    costs = cut_costs(traced, shape)
    points = cut_points.cut_points(traced, shape)
    title = f"{spec.title} for images of {'x'.join(map(str, shape))}"
    model = {**spec.source.keys(spec.name), **args}
    if stages:
        found_stages = find_stages(traced, "stages", shape)
        bounds = [
            (cut_points.resolve(traced, s.block_input, "input"), cut_points.resolve(traced, s.block_output))
            for s in found_stages
        ]
        entries: list[dict[str, Any]] = [
            {
                "name": stage.name,
                "block_input": stage.block_input,
                "block_output": stage.block_output,
                "in_format": stage.in_format.to_yaml(),
                "out_format": stage.out_format.to_yaml(),
                "parameters": costs[end.name].before.params - costs[start.name].before.params,
                "macs": costs[end.name].before.macs - costs[start.name].before.macs,
            }
            for stage, (start, end) in zip(found_stages, bounds, strict=True)
        ]
        ends = boundaries(traced, shape)
        return Inspection(title, model, entries, True, _uncut(ends), len(ends))
    entries = [
        {
            "name": point.name,
            "format": point.layout.kind if point.layout else None,
            "size": list(point.shape),
            "prefix_tokens": point.layout.prefix if point.layout else 0,
            "parameters_before": costs[point.name].before.params,
            "parameters_after": costs[point.name].after.params,
            "macs_before": costs[point.name].before.macs,
            "macs_after": costs[point.name].after.macs,
        }
        for point in points
    ]
    return Inspection(title, model, entries, False, [], 0)


def _uncut(ends: Sequence[Boundary]) -> list[dict[str, Any]]:
    """The blocks at whose ends the model cannot be cut, with what crosses there."""
    return [
        {
            "block": end.block,
            "crossing": [
                {"name": name, "size": list(size) if size else None}
                for name, size in zip(end.crossing, end.shapes, strict=True)
            ],
        }
        for end in ends
        if end.point is None
    ]


def _words(given: Any) -> str:
    return given if isinstance(given, str) else f"{given[0]} {'x'.join(map(str, given[1]))}"
