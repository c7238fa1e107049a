"""Models cut into rows of stages, which a sweep drops and keeps, with their formats; and stitches of two such rows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from stitching.config.errors import UserError, at
from stitching.config.format_syntax import FormatField
from stitching.config.parts import ModelFields
from stitching.config.sweep import ModelEntry
from stitching.cutting import cut_points
from stitching.cutting.formats import Format
from stitching.cutting.stages import find_stages
from stitching.models import building
from stitching.models.spec import ModelSpec
from stitching.models.traced_models import model_spec, traced_model
from stitching.models.weights import load_weights
from stitching.nets.parts.trained import SubnetPart
from stitching.runs.identity import file_digest
from stitching.sweeps.plan_cache import PlanCache

__all__ = ["Shape", "Stage", "StagedModel", "Stitch", "declared_row", "discovered_row", "subnets"]

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Stage:
    """One piece of a model: where it begins and ends, by name and by place in the graph, and what goes in and out."""

    model: dict[str, Any]  # the model's YAML keys: backend, model_name, ckp_path, ...
    block_input: str | None
    block_output: str | None
    start: int
    end: int
    in_format: Format
    out_format: Format

    @property
    def downsamples(self) -> bool:
        """Whether the piece makes the image smaller."""
        return self.in_format.spatial != self.out_format.spatial and self.out_format.spatial is not None


@dataclass(frozen=True)
class StagedModel:
    """A whole model, or what a user lists instead, as stages in order."""

    title: str  # timm/resnet50
    stages: tuple[Stage, ...]
    key: str = "models"  # where the sweep's YAML names it

    @property
    def isotropic(self) -> bool:
        """Whether nothing after the first stage changes the resolution."""
        return not any(stage.downsamples for stage in self.stages[1:-1])

    def begins_resolution(self, number: int) -> bool:
        """Whether the stage of this number begins a resolution.

        Models of one resolution have the row of four resolutions, too, if they have its eight stages: two of each.
        """
        stage = self.stages[number]
        return stage.downsamples or (self.isotropic and len(self.stages) == 8 and number % 2 == 0)


@dataclass(frozen=True)
class Stitch:
    """One combination of source, destination, gap and stitcher, or a control to compare it with."""

    source: StagedModel
    dest: StagedModel
    gap: tuple[int, int]  # the first and the last block that is dropped
    num_downsamples: int
    stitcher: str
    control: str | None = None  # `base` for a whole network, else one of the sweep's `controls`

    @property
    def only_tests(self) -> bool:
        """Whether there is nothing in its network to train."""
        return self.control in ("base", "self")


def discovered_row(entry: ModelEntry, depths: str | list[str], image: Shape, cache: PlanCache) -> StagedModel:
    """A model's row with the stages found by `find_stages`, for images of shape `image` (C, H, W)."""
    made_from = ("row", depths, image, _made_from(entry))
    return _row(cache.get(made_from, lambda: asdict(_discovered(entry, depths, image))))


def _discovered(entry: ModelEntry, depths: str | list[str], image: Shape) -> StagedModel:
    traced, shape = _looked_at(entry, image)
    points = cut_points.cut_points(traced, shape)
    stages = []
    for stage in find_stages(traced, depths, shape):
        start = cut_points.resolve(traced, stage.block_input, "input")
        end = cut_points.resolve(traced, stage.block_output, "output")
        stages.append(_stage(entry, stage.block_input, stage.block_output, points, start.index, end.index))
    return StagedModel(entry.title, tuple(stages))


def declared_row(parts: Sequence[SubnetPart], image: Shape, key: str, cache: PlanCache) -> StagedModel:
    """The row that a user typed out under `key`; formats that they declare are held against what the models give."""
    made_from = ("row", key, image, [_made_from(part) for part in parts])
    return _row(cache.get(made_from, lambda: asdict(_declared(parts, image, key))))


def _made_from(part: ModelFields) -> object:
    """What the look at a model depends on: what is written, its code, and what is in its file of weights."""
    version = model_spec(part).version
    return part, file_digest(part.ckp_path) if part.ckp_path else None, *([version] if version else [])


def _row(data: dict[str, Any]) -> StagedModel:
    """A row from the plain data that `asdict` and JSON made of it."""
    stages = [
        Stage(**{**stage, "in_format": _format(stage["in_format"]), "out_format": _format(stage["out_format"])})
        for stage in data["stages"]
    ]
    return StagedModel(data["title"], tuple(stages), data["key"])


def _format(data: dict[str, Any]) -> Format:
    size = data["size"]
    return Format(**{**data, "size": tuple(size) if isinstance(size, list) else size})


def _declared(parts: Sequence[SubnetPart], image: Shape, key: str) -> StagedModel:
    stages = []
    for i, part in enumerate(parts):
        with at(i, "Subnet"):
            traced, shape = _looked_at(part, image)
            points = cut_points.cut_points(traced, shape)
            with at("block_input"):
                if isinstance(part.block_input, list):
                    raise UserError("a stage begins with one tensor", allowed="one name")
                start = cut_points.resolve(traced, part.block_input, "input").index
            with at("block_output"):
                end = cut_points.resolve(traced, part.block_output, "output").index
            if start >= end:
                raise UserError(
                    f"{points[end].name!r} does not come after {points[start].name!r}", path=("block_output",)
                )
            stage = _stage(part, part.block_input, part.block_output, points, start, end)
            for name, actual in (("in_format", stage.in_format), ("out_format", stage.out_format)):
                with at(name):
                    _check_declared(getattr(part, name), actual)
            stages.append(stage)
    return StagedModel("+".join(dict.fromkeys(part.title for part in parts)), tuple(stages), key)


def _stage(
    part: ModelFields, block_input: str | None, block_output: str | None, points: list[cut_points.CutPoint], start: int,
    end: int,
) -> Stage:  # fmt: skip
    """The stage between two cut points; a model's start and end are not named, whatever a user calls them."""
    entry = block_input if start > 0 else None
    leave = block_output if end < len(points) - 1 else None
    return Stage(_model_keys(part), entry, leave, start, end, points[start].format, points[end].format)


def subnets(stages: Sequence[Stage], *, frozen: bool, in_format: Format | None = None) -> list[dict[str, Any]]:
    """Stages as `Subnet` parts in YAML: neighbours of one model become one subnet; the first gets `in_format`."""
    parts: list[dict[str, Any]] = []
    previous: Stage | None = None
    for stage in stages:
        joins = previous is not None and (previous.model, previous.end) == (stage.model, stage.start)
        if joins:
            arguments = parts[-1]["Subnet"]
        else:
            arguments = {**stage.model, **({"block_input": stage.block_input} if stage.block_input else {})}
            parts.append({"Subnet": arguments})
        arguments.pop("block_output", None)
        if stage.block_output:
            arguments["block_output"] = stage.block_output
        arguments["frozen"] = frozen
        previous = stage
    if in_format is not None:
        parts[0]["Subnet"]["in_format"] = in_format.to_yaml()
    return parts


def _model_keys(part: ModelFields) -> dict[str, Any]:
    keys = part.naming_keys
    loading = {"pretrained": part.pretrained, "weights": part.weights, "ckp_path": part.ckp_path}
    loading["random"] = getattr(part, "random", None) or None
    return keys | {key: value for key, value in loading.items() if value is not None} | part.model_args


def _looked_at(part: ModelFields, image: Shape) -> tuple[cut_points.TracedModel, Shape]:
    """A model on the meta device, and images that it takes: `image` if it can.

    Else those that it was made for: as a destination it never sees an image.
    """
    spec = model_spec(part)
    traced = traced_model(spec, meta=True, images=image)
    if spec.ckp_path:
        with at("ckp_path"):
            _check_weights(spec, file_digest(spec.ckp_path))
    try:
        cut_points.cut_points(traced, image)
    except UserError:
        if (shape := building.input_shape(spec)) is None:
            raise
        return traced, shape
    return traced, image


@lru_cache(maxsize=64)  # a row that is typed out names its model once for each stage
def _check_weights(spec: ModelSpec, _digest: str) -> None:
    """Hold the names and shapes in a file of weights against the model. Raises `UserError` if they do not fit."""
    assert spec.ckp_path is not None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # nothing is loaded: on purpose
        load_weights(building.build_meta(spec), spec.ckp_path, spec.title)


def _check_declared(written: FormatField | None, actual: Format) -> None:
    if written is None:
        return
    declared = Format.parse(written)
    fits = declared.kind == actual.kind and (declared.channels is None or declared.channels == actual.channels)
    if not fits or (declared.size is not None and declared.size != actual.size):
        raise UserError(
            f"declared as {declared}, the model has {actual} there",
            allowed=f"{actual.to_yaml()}, or leave it out",
        )
