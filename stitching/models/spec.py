"""Which model, with which weights: the names in a config, checked and normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stitching.config.errors import UserError, at
from stitching.config.model_sources import SOURCES, ModelSource
from stitching.config.parts import ModelFields
from stitching.models.arguments import check_argument
from stitching.models.random_networks import ImageSample

__all__ = ["ModelSpec", "published_as"]


@dataclass(frozen=True)
class ModelSpec:
    """Which model, with which weights. Hashable, so that models can be cached by it.

    Attributes:
        backend: the name of its source: timm, torchvision, local, module.
        name: the model's name there, for timm with the tag of its weights (`resnet50.a1_in1k`).
        pretrained: load the published weights; ignored if there is a `ckp_path`.
        ckp_path: a file of weights.
        args: arguments for the model's constructor, as (name, value) pairs; lists as tuples.
        weights: the name of the published weights (`IMAGENET1K_V2`), unless `name` contains it.
        version: the digest of a user's code, which distinguishes two contents of one name.
        random: load no weights, and let no branch start switched off.
        sample: images for the BatchNorm statistics of a random network; None leaves the initial ones.
    """

    backend: str
    name: str
    pretrained: bool = False
    ckp_path: str | None = None
    args: tuple[tuple[str, Any], ...] = ()
    weights: str | None = None
    version: str | None = None
    random: bool = False
    sample: ImageSample | None = None

    @classmethod
    def of(cls, part: ModelFields) -> ModelSpec:
        """The model of a part of a network or of a sweep's entry; raises as `parse` does."""
        return cls._checked(
            *part.source_and_name, part.wants_pretrained, part.ckp_path, part.weights, part.model_args
        )  # fmt: skip

    @classmethod
    def parse(
        cls,
        title: str,
        /,
        *,
        pretrained: bool = False,
        ckp_path: str | None = None,
        weights: str | None = None,
        **args: Any,
    ) -> ModelSpec:
        """The model that a title such as `timm/resnet50.a1_in1k` or `module:my_models.py:make_net` names.

        `pytorch/` means `torchvision/`. A relative file is looked up in the current folder.

        Raises:
            UserError: for an unknown backend, model or tag of weights (suggests the nearest), or an argument that is
                not the model's own.
        """
        backend, colon, name = title.partition(":")
        if not colon or "/" in backend:
            backend, slash, name = title.partition("/")
            if not slash:
                usages = dict.fromkeys(source.usage for _, source in SOURCES.items())
                raise UserError(f"the model {title!r} names no backend", allowed=", ".join(usages))
        return cls._checked(backend, name, pretrained, ckp_path, weights, args)

    @classmethod
    def _checked(
        cls, backend: str, name: str, pretrained: bool, ckp_path: str | None, weights: str | None, args: dict[str, Any]
    ) -> ModelSpec:
        source = SOURCES[backend]
        name = source.resolve(name)
        checked = {key: check_argument(source, name, key, value) for key, value in args.items()}
        published = pretrained and not ckp_path and source.publishes_weights
        with at("weights"):
            tag = _weights_tag(source, name, weights, published, requested=pretrained and not ckp_path)
        checked = source.implied_arguments(name, tag) | checked
        args_in_order = tuple(sorted(checked.items()))
        return cls(source.name, name, pretrained, ckp_path, args_in_order, tag, source.version(name))

    @property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        return SOURCES[self.backend]

    @property
    def title(self) -> str:
        """`backend/name`."""
        return self.source.title(self.name)

    @property
    def takes_published(self) -> bool:
        """Whether it is built with published weights."""
        return self.pretrained and not self.ckp_path and self.source.publishes_weights


def published_as(part: ModelFields) -> tuple[str, str | None]:
    """The normalised names of a part's model and of its published weights, if it loads them.

    timm's weights are named by the tag after the dot, torchvision's by `weights`; by default those of the default. A
    user's own model is named by the digest of its code.
    """
    try:
        spec = ModelSpec.of(part)
    except UserError:  # reported when the model is built
        return part.title, part.weights
    return spec.source.identity(spec.name, spec.weights, spec.takes_published)


def _weights_tag(
    source: ModelSource, name: str, weights: str | None, published: bool, *, requested: bool
) -> str | None:
    """The name of the published weights to load, unless the model's own name contains it."""
    if weights is not None and not requested:
        raise UserError(
            f"weights: {weights} of {source.title(name)}, which takes no published weights",
            allowed=source.weights_key, do=source.weights_hint,
        )  # fmt: skip
    return source.weights_named(name, weights) if published or weights is not None else None
