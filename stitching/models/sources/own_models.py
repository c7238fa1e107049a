"""Models of this package: `local/convnet`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.errors import unknown_name
from stitching.config.model_sources import SOURCES, ModelSource
from stitching.models.sources.signatures import class_arguments

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LOCAL"]


class OwnModels(ModelSource):
    name: ClassVar[str] = "local"
    is_default: ClassVar[bool] = True

    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        return _models()[name](**args)

    def resolve(self, name: str) -> str:
        if name not in _models():
            raise unknown_name("model in local", name, _models())
        return name

    def keys(self, name: str) -> dict[str, Any]:
        return {"model_name": name}  # without a backend it is ours

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        return 3, 32, 32

    def constructor_arguments(self, name: str, class_name: str) -> list[str]:
        return class_arguments(_models()[name], class_name)


def _models() -> dict[str, type[nn.Module]]:
    from stitching.models.convnet import ConvNet

    return {"convnet": ConvNet}


LOCAL = SOURCES.register("local")(OwnModels())
