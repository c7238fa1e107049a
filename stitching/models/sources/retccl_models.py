"""RetCCL, a ResNet-50 for tissue images without a classifier (doi:10.1016/j.media.2022.102645): `retccl/resnet50`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.errors import unknown_name
from stitching.config.model_sources import SOURCES, WeightsFile
from stitching.models.sources.torchvision_models import TORCHVISION
from stitching.models.sources.torchvision_weights import TorchvisionWeights

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["RETCCL"]

_PAGE = "https://github.com/Xiyue-Wang/RetCCL"
_NAMES = ("resnet50", "retccl")


class RetcclModels(TorchvisionWeights):
    """The output is the 2048 pooled features, unless `num_classes` asks for a classifier, which is untrained."""

    name: ClassVar[str] = "retccl"
    untrained: ClassVar[tuple[str, ...]] = ("fc.",)
    weights_hint: ClassVar[str | None] = "There is one set of weights of it, best_ckpt.pth."

    def resolve(self, name: str) -> str:
        if name.lower() not in _NAMES:
            raise unknown_name("model in retccl", name, _NAMES)
        return _NAMES[0]

    def architecture(self, name: str) -> str:
        return name

    def takes_argument(self, name: str, argument: str) -> bool:
        return argument != "num_classes"  # by itself it has no classifier for the data's classes

    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        from torch import nn

        model = super().build(name, weights, args)
        if "num_classes" not in args:
            model.fc = nn.Identity()
        return model

    def identity(self, name: str, weights: str | None, published: bool) -> tuple[str, str | None]:
        return self.title(name), "best_ckpt" if published else None

    def weights_file(self, name: str, weights: str | None) -> WeightsFile:
        from stitching.models.prefetch import ManualFile

        return ManualFile("retccl/best_ckpt.pth", _PAGE)

    def adapted(self, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        adapted = super().adapted(weights, expected)
        return {key: value for key, value in adapted.items() if key in expected or not key.startswith("fc.")}

    def normalization(self, name: str, weights: str | None) -> tuple[Sequence[float], Sequence[float]] | None:
        return TORCHVISION.normalization(name, None)  # ImageNet's


RETCCL = SOURCES.register("retccl")(RetcclModels())
