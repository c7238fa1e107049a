"""Models that parts of networks name, with their graphs; the most recent are cached."""

from __future__ import annotations

from functools import lru_cache

from stitching.config.errors import UserError
from stitching.config.parts import BasePart, ModelFields
from stitching.cutting.tracing import Shape3, TracedModel, trace
from stitching.models.building import build, build_meta, input_shape
from stitching.models.spec import ModelSpec

__all__ = ["first_model", "forget_models", "model_spec", "traced_model"]


def model_spec(part: ModelFields) -> ModelSpec:
    """The model that a part names."""
    try:
        return ModelSpec.of(part)
    except UserError as error:
        error.path = error.path or ("module" if part.module else "model_name",)
        raise


def first_model(part: BasePart) -> ModelSpec | None:
    """The model that takes the images; None if another part does, or several side by side."""
    first = part.first_part()
    return model_spec(first) if isinstance(first, ModelFields) else None


def traced_model(spec: ModelSpec, seed: int = 0, meta: bool = False, images: Shape3 | None = None) -> TracedModel:
    """A model and its graphs. The most recent are cached, as a network cuts the same model more than once.

    Args:
        spec, seed: which model, with which random weights.
        meta: build it for its shapes only.
        images: (C, H, W) of the data, for a model that does not state its own.
    """
    return _traced(spec, seed, meta, images if input_shape(spec) is None else None)


@lru_cache(maxsize=8)
def _traced(spec: ModelSpec, seed: int, meta: bool, images: Shape3 | None) -> TracedModel:
    return trace(build_meta(spec) if meta else build(spec, seed), images)


def forget_models() -> None:
    """Clear the cache of `traced_model`."""
    _traced.cache_clear()
