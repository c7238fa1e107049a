"""Which model, with which weights: the names in a config, checked and in one spelling."""

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
    """Which model, with which weights. Hashable, so that what is built from it can be kept.

    Attributes:
        backend: the name of its source: timm, torchvision, local, module.
        name: the model's name there, for timm with the tag of its weights (`resnet50.a1_in1k`).
        pretrained: take the published weights; without effect if there is a `ckp_path`.
        ckp_path: a file of weights.
        args: arguments for the model's constructor, as (name, value) pairs; lists as tuples.
        weights: the name of the published weights (`IMAGENET1K_V2`), where `name` does not say it.
        version: tells two contents of one name apart: the digest of a user's code.
        random: no weights are taken, and none of its branches starts switched off.
        sample: the images that give a random network the statistics of its BatchNorm layers; None: as they are made.
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
        """The model that a part of a network, or an entry of a sweep, names; raises as `parse` does."""
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

        `pytorch/` means `torchvision/`. A relative file starts from the current folder.

        Raises:
            UserError: if there is no such backend, model or tag of weights, which offers the nearest; or for an
                argument that is none of a model's own.
        """
        backend, colon, name = title.partition(":")
        if not colon or "/" in backend:
            backend, slash, name = title.partition("/")
            if not slash:
                ways = dict.fromkeys(source.usage for _, source in SOURCES.items())
                raise UserError(f"the model {title!r} names no backend", allowed=", ".join(ways))
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
            tag = _weights_tag(source, name, weights, published, asked=pretrained and not ckp_path)
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
        """Whether it is built with weights that somebody has published."""
        return self.pretrained and not self.ckp_path and self.source.publishes_weights


def published_as(part: ModelFields) -> tuple[str, str | None]:
    """The name of a part's model, and that of its published weights if it takes them: in one spelling each.

    timm's weights are named by the tag behind the dot, torchvision's by their `weights`. Where that is left out, they
    are the default's. A user's own model is named by the digest of its code.
    """
    try:
        spec = ModelSpec.of(part)
    except UserError:  # reported when the model is built
        return part.title, part.weights
    return spec.source.identity(spec.name, spec.weights, spec.takes_published)


def _weights_tag(source: ModelSource, name: str, weights: str | None, published: bool, *, asked: bool) -> str | None:
    """The name of the published weights that the model is to take, where its own name does not say it."""
    if weights is not None and not asked:
        raise UserError(
            f"weights: {weights} of {source.title(name)}, which takes no published weights",
            allowed=source.weights_key, do=source.weights_hint,
        )  # fmt: skip
    return source.weights_named(name, weights) if published or weights is not None else None
