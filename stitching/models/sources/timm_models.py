"""Models of timm, by their name there with the tag of their weights: `timm/resnet50.a1_in1k`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.errors import UserError, unknown_name
from stitching.config.model_sources import SOURCES, ModelSource, WeightsFile
from stitching.models.sources.signatures import class_arguments, parameters_of, sounds_like_loading

if TYPE_CHECKING:
    from torch import nn


__all__ = ["TIMM"]


class TimmModels(ModelSource):
    name: ClassVar[str] = "timm"
    publishes_weights: ClassVar[bool] = True
    weights_hint: ClassVar[str | None] = "a timm model's tag is part of its name, e.g. resnet50.a1_in1k"

    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=weights is not None, **args)

    def resolve(self, name: str) -> str:
        _check_name(name)
        return name

    def seed_name(self, name: str) -> tuple[str, str]:
        return self.name, name.partition(".")[0]  # the tag names weights

    def identity(self, name: str, weights: str | None, published: bool) -> tuple[str, str | None]:
        if not published:
            return self.title(name), None
        architecture, _, tag = _with_tag(name).partition(".")
        return self.title(architecture), tag

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        import timm

        config = timm.get_pretrained_cfg(name)
        return config.input_size if config else (3, 224, 224)

    def is_reserved(self, name: str, argument: str) -> bool:
        import timm
        from timm.models._builder import build_model_with_cfg

        reserved = parameters_of(timm.create_model) | parameters_of(build_model_with_cfg)
        return argument in reserved or sounds_like_loading(argument)

    def constructor_arguments(self, name: str, class_name: str) -> list[str]:
        import timm

        return class_arguments(timm.models.model_entrypoint(name.partition(".")[0]), class_name)

    def weights_file(self, name: str, weights: str | None) -> WeightsFile | None:
        import timm
        from timm.models._builder import _resolve_pretrained_source
        from timm.models._hub import HF_WEIGHTS_NAME, _get_safe_alternatives, hf_split

        from stitching.models.prefetch import HubFile, UrlFile

        try:
            config = timm.get_pretrained_cfg(_current_name(name))
        except RuntimeError:  # no such tag
            config = None
        kind, location = _resolve_pretrained_source(config.to_dict()) if config else ("", "")
        if kind == "hf-hub":
            repository, file = (location, HF_WEIGHTS_NAME) if isinstance(location, str) else location
            repository, revision = hf_split(repository)
            return HubFile(repository, revision, (*_get_safe_alternatives(file), file))  # in timm's order
        if kind == "url" and isinstance(location, str):
            return UrlFile(location)
        raise UserError(
            "this model has no published weights",
            do="Name other weights (the tag after the dot), set ckp_path to a file of weights, or pretrained: false.",
        )

    def normalization(self, name: str, weights: str | None) -> tuple[Sequence[float], Sequence[float]] | None:
        import timm

        config: Any = timm.get_pretrained_cfg(name)
        return (config.mean, config.std) if config else None


def _current_name(name: str) -> str:
    """A model's current name, if `name` is an older one."""
    import timm

    return timm.models.get_deprecated_models().get(name) or name


@lru_cache(maxsize=256)
def _with_tag(name: str) -> str:
    """A model's current name, with the tag of its default weights if it has none."""
    import timm

    name = _current_name(name)
    config = timm.get_pretrained_cfg(name)
    return f"{name.partition('.')[0]}.{config.tag}" if config and config.tag else name


@lru_cache(maxsize=256)
def _check_name(name: str) -> None:
    import timm

    architecture, dot, _ = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("model in timm", name, timm.list_models())
    names = timm.list_models(f"{architecture}.*", pretrained=True) if dot else [name]
    if name not in names:
        raise unknown_name("model in timm", name, names)


TIMM = SOURCES.register("timm")(TimmModels())
