"""Trained models and pieces of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator
from torch import nn

from stitching.config.errors import UserError, at
from stitching.config.format_syntax import TUPLE
from stitching.config.parts import PARTS, ModelFields
from stitching.config.schema import complaint, one_of
from stitching.cutting import cut_points
from stitching.cutting.formats import Format, TupleFormat
from stitching.cutting.graph_passes import main_output
from stitching.cutting.tuple_cuts import extract_for_tuple, values_to
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

    block_input: one_of(text=str, list=Annotated[list[str], Field(min_length=2)]) | None = None  # type: ignore[valid-type]
    """Module or value with whose input the piece begins; by default the images. A list of two or more: the piece takes
    the outputs of these modules or values, in this order, from a part that gives several: a `ParallelPart` with
    `agg: none`, or a `Subnet` with `out_format: tuple`.
    """
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
        return TupleFormat() if start.also else Format(start.format.kind, prefix=start.format.prefix)

    def build(self, input_format: Format, options: BuildOptions) -> nn.Module:
        spec, start, end = self._cut(options)
        traced = traced_model(spec, options.seed, options.meta, options.images)
        if isinstance(input_format, TupleFormat):
            likely = input_format.images, options.images
            with at("block_input"):
                subnet, images = extract_for_tuple(traced, start, end, input_format, likely)
            subnet.tuple_images = images
        elif end.also:
            images = cut_points.images_giving(traced, start, input_format.shape(1)[1:])
            subnet = cut_points.extract(traced, start, end, images)
            subnet.tuple_images = images
        else:
            subnet = cut_points.extract_for(traced, start, end, input_format.shape(1)[1:])
        if not end.also:
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
        several = self.block_input if isinstance(self.block_input, list) else None
        with at("block_input"):
            first = None if several else self.block_input
            start = cut_points.resolve(traced, first, "input", as_tuple=self.in_format == TUPLE)
        with at("block_output"):
            end = cut_points.resolve(traced, self.block_output, "output", as_tuple=self.out_format == TUPLE)
        if several:
            with at("block_input"):
                start = values_to(traced, several, end)
        for key, declared, point in (("in_format", self.in_format, start), ("out_format", self.out_format, end)):
            if declared == TUPLE and not point.also:
                raise UserError(
                    f"is tuple, but the value of {point.name!r} alone crosses there", do="Leave it out.", path=(key,)
                )
        return spec, start, end


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
