"""Models of torchvision: `torchvision/swin_t`; `weights:` selects among several published weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.errors import unknown_name
from stitching.config.model_sources import SOURCES, ModelSource, WeightsFile
from stitching.models.sources.signatures import class_arguments, parameters_of, sounds_like_loading

if TYPE_CHECKING:
    from torch import nn


__all__ = ["TORCHVISION"]

_SIDE = 224  # of images


class TorchvisionModels(ModelSource):
    name: ClassVar[str] = "torchvision"
    publishes_weights: ClassVar[bool] = True

    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        import torchvision

        if name in ("googlenet", "inception_v3"):
            args = {"init_weights": weights is None, **args}  # else it warns that the default will change
        return torchvision.models.get_model(name, weights=weights, **args)

    def resolve(self, name: str) -> str:
        names = _names()
        if name not in names:
            raise unknown_name("model in torchvision", name, names)
        return name

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        # Of several sets of weights, those for the smallest images: others may need other arguments.
        side = _image_side(name)
        return 3, side, side

    def is_reserved(self, name: str, argument: str) -> bool:
        import torchvision

        reserved = parameters_of(torchvision.models.get_model_builder(name))
        return argument in reserved or sounds_like_loading(argument)

    def implied_arguments(self, name: str, weights: str | None) -> dict[str, Any]:
        if not weights or not name.startswith("vit_"):
            return {}
        # Its position table is for one image size, which torchvision takes from the weights.
        side = _weights(name)[weights].meta["min_size"][0]
        return {"image_size": side} if side != _SIDE else {}

    def constructor_arguments(self, name: str, class_name: str) -> list[str]:
        import torchvision

        return class_arguments(torchvision.models.get_model_builder(name), class_name)

    def weights_named(self, name: str, weights: str | None) -> str | None:
        published = _weights(name)
        if weights is not None and weights not in published.__members__:
            raise unknown_name(f"set of weights of {self.title(name)}", weights, published.__members__)
        return str(published[weights or "DEFAULT"].name)

    def weights_file(self, name: str, weights: str | None) -> WeightsFile | None:
        from stitching.models.prefetch import UrlFile

        return UrlFile(_weights(name)[weights or "DEFAULT"].url)

    def normalization(self, name: str, weights: str | None) -> tuple[Sequence[float], Sequence[float]] | None:
        transforms = _weights(name)[weights or "DEFAULT"].transforms()
        return transforms.mean, transforms.std


@lru_cache(maxsize=1)
def _names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


@lru_cache(maxsize=256)
def _image_side(name: str) -> int:
    """Pixels on a side of the images that the model's published weights take; 299 for Inception."""
    return min((weights.transforms().crop_size[0] for weights in _weights(name)), default=_SIDE)


def _weights(name: str) -> Any:
    import torchvision

    return torchvision.models.get_model_weights(name)


TORCHVISION = SOURCES.register("torchvision")(TorchvisionModels())
SOURCES.register("pytorch")(TORCHVISION)  # what older configs call it
