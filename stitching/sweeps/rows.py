"""Rows of stages: a model cut into the pieces that a sweep drops and keeps, each with its formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stitching.nets.formats import Format
from stitching.nets.stages import find_stages

from stitching.config.errors import UserError, at
from stitching.config.parts import ModelFields, SubnetPart
from stitching.config.sweep import ModelEntry
from stitching.nets import graphs, zoo
from stitching.nets.build import model_spec, traced_model

__all__ = ["Row", "RowStage", "declared_row", "discovered_row", "subnets"]

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class RowStage:
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
class Row:
    """A whole model, or what a user lists instead, as stages in order."""

    title: str  # timm/resnet50
    stages: tuple[RowStage, ...]

    @property
    def label(self) -> str:
        """The title's last word, fit for a folder's name."""
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in self.title.split("/")[-1])

    @property
    def isotropic(self) -> bool:
        """Whether nothing after the first stage changes the resolution."""
        return not any(stage.downsamples for stage in self.stages[1:-1])


def discovered_row(entry: ModelEntry, depths: str | list[str], image: Shape) -> Row:
    """A model's row with the stages found by `find_stages`, for images of shape `image` (C, H, W)."""
    spec = model_spec(entry)
    traced = traced_model(spec, meta=True)
    shape = _runnable_shape(traced, spec, image)
    with at("depths"):
        found = find_stages(traced, depths, shape)
    keys = _model_keys(entry)
    stages = []
    for stage in found:
        start = graphs.resolve(traced, stage.block_input, "input")
        end = graphs.resolve(traced, stage.block_output, "output")
        stages.append(
            RowStage(
                keys,
                stage.block_input,
                stage.block_output,
                start.index,
                end.index,
                stage.in_format,
                stage.out_format,
            )
        )
    return Row(entry.title, tuple(stages))


def declared_row(parts: Sequence[SubnetPart], image: Shape) -> Row:
    """The row that a user typed out; formats that they declare are held against what the models give."""
    stages = []
    for i, part in enumerate(parts):
        with at(i, "Subnet"):
            spec = model_spec(part)
            traced = traced_model(spec, meta=True)
            points = {point.index: point for point in graphs.cut_points(traced, _runnable_shape(traced, spec, image))}
            with at("block_input"):
                start = graphs.resolve(traced, part.block_input, "input")
            with at("block_output"):
                end = graphs.resolve(traced, part.block_output, "output")
            in_format, out_format = points[start.index].format, points[end.index].format
            for key, found in (("in_format", in_format), ("out_format", out_format)):
                declared = getattr(part, key)
                with at(key):
                    _check_declared(Format.parse(declared) if declared else None, found)
            stages.append(
                RowStage(
                    _model_keys(part),
                    part.block_input,
                    part.block_output,
                    start.index,
                    end.index,
                    in_format,
                    out_format,
                )
            )
    titles = list(dict.fromkeys(part.title for part in parts))
    return Row(titles[0] if len(titles) == 1 else "+".join(titles), tuple(stages))


def subnets(stages: Sequence[RowStage], *, frozen: bool, in_format: Format | None = None) -> list[dict[str, Any]]:
    """Stages as `Subnet` parts in YAML: neighbours of one model become one subnet; the first gets `in_format`."""
    parts: list[dict[str, Any]] = []
    previous: RowStage | None = None
    for stage in stages:
        joins = previous is not None and (previous.model, previous.end) == (stage.model, stage.start)
        if joins:
            arguments = parts[-1]["Subnet"]
        else:
            arguments = {**stage.model, **({"block_input": stage.block_input} if stage.start else {})}
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
    backend, name = part.title.split("/", 1)
    keys: dict[str, Any] = {} if backend == "local" else {"backend": backend}
    keys["model_name"] = name
    if part.pretrained is not None:
        keys["pretrained"] = part.pretrained
    if part.ckp_path:
        keys["ckp_path"] = part.ckp_path
    return keys | part.model_args


def _runnable_shape(traced: graphs.TracedModel, spec: zoo.ModelSpec, image: Shape) -> Shape:
    """`image`, if the model takes it; else what it was made for: as a destination it never sees an image."""
    try:
        graphs.cut_points(traced, image)
    except UserError:
        return zoo.input_shape(spec)
    return image


def _check_declared(declared: Format | None, found: Format) -> None:
    if declared is None:
        return
    fits = declared.kind == found.kind and (declared.channels is None or declared.channels == found.channels)
    if not fits or (declared.size is not None and declared.size != found.size):
        raise UserError(
            f"declared as {declared}, the model has {found} there",
            allowed=f"{found.to_yaml()}, or leave it out",
        )
