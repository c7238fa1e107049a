"""Trained models and pieces of them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from pydantic import model_validator
from torch import nn

from stitching.config.errors import at
from stitching.config.parts import PARTS, ModelFields
from stitching.config.schema import complaint
from stitching.cutting import cut_points
from stitching.cutting.formats import Format
from stitching.cutting.graph_passes import main_output
from stitching.models.building import build, build_meta
from stitching.models.spec import ModelSpec
from stitching.models.traced_models import model_spec, traced_model
from stitching.nets.buildable import BuildablePart, BuildOptions

__all__ = ["NetPart", "SubnetPart"]


@PARTS.register("Subnet")
class SubnetPart(BuildablePart, ModelFields):
    """A piece of a trained model, between two cut points."""

    is_subnet: ClassVar[bool] = True
    bounds_itself: ClassVar[bool] = True

    block_input: str | None = None
    """Module or value with whose input the piece begins; by default the images."""
    block_output: str | None = None
    """Module or value with whose output the piece ends; by default the model's output."""
    random: bool = False
    """Random weights in all branches, with BatchNorm statistics of training images (for controls). Needs
    `pretrained: false`.
    """

    @model_validator(mode="after")
    def _random_without_weights(self) -> Self:
        if self.random and (self.pretrained is not False or self.ckp_path or self.weights):
            raise complaint(
                "a random network takes no weights", "`random: true` with `pretrained: false`", key="random"
            )
        return self

    def native_format(self, options: BuildOptions) -> Format:
        _, start, _ = self._cut(options)
        return Format(start.format.kind, prefix=start.format.prefix)

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        spec, start, end = self._cut(options)
        traced = traced_model(spec, options.seed, options.meta, options.images)
        subnet = cut_points.extract_for(traced, start, end, input_format.shape(1)[1:])
        subnet.out_kind, subnet.out_prefix = end.format.kind, end.format.prefix
        subnet.cut_from = (spec, start, end)  # training compares it to find shared fronts
        subnet.statistics_images = getattr(traced.model, "statistics_images", None)
        return subnet

    def _cut(self, options: BuildOptions) -> tuple[ModelSpec, cut_points.CutPoint, cut_points.CutPoint]:
        """The model that the piece is cut from, and where the piece begins and ends in it."""
        spec = model_spec(self)
        if self.random:
            spec = replace(spec, random=True, sample=None if options.meta else options.sample)
        traced = traced_model(spec, options.seed, options.meta, options.images)
        with at("block_input"):
            start = cut_points.resolve(traced, self.block_input, "input")
        with at("block_output"):
            return spec, start, cut_points.resolve(traced, self.block_output, "output")


@PARTS.register("Net")
class NetPart(BuildablePart, ModelFields):
    """A whole model."""

    is_whole_model: ClassVar[bool] = True
    works_on: ClassVar[str | None] = "img"
    bounds_itself: ClassVar[bool] = True

    def native_format(self, options: BuildOptions) -> Format | None:
        model_spec(self)  # report an unknown name before anything about formats
        return super().native_format(options)

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        spec = model_spec(self)
        has_weights = self.wants_pretrained or self.ckp_path or "num_classes" in self.model_args
        if options.num_classes and not has_weights and spec.source.takes_argument(spec.name, "num_classes"):
            spec = model_spec(self.model_copy(update={"num_classes": options.num_classes}))  # no trained head is lost
        model = build_meta(spec) if options.meta else build(spec, options.seed)
        model.register_forward_hook(main_output)
        return model
