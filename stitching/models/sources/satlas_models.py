"""Models of Satlas, trained on images of satellites and aircraft (arXiv:2211.15660): `satlas/Sentinel2_SwinB_SI_RGB`.

A name contains its architecture, which is torchvision's, and names its file in a repository of the Hugging Face hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from stitching.config.errors import UserError
from stitching.config.model_sources import SOURCES, WeightsFile
from stitching.models.sources.torchvision_models import TORCHVISION
from stitching.models.sources.torchvision_weights import TorchvisionWeights

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SATLAS"]

_REPOSITORY = "allenai/satlas-pretrain"
_ARCHITECTURES = {"swinb": "swin_v2_b", "swint": "swin_v2_t", "resnet50": "resnet50", "resnet152": "resnet152"}
_BACKBONE = re.compile(r"(backbone\.)+(resnet\.)?")  # twice, or before `resnet`; once more for models of several images


class SatlasModels(TorchvisionWeights):
    """Upper and lower case are the same in a name."""

    name: ClassVar[str] = "satlas"
    untrained: ClassVar[tuple[str, ...]] = ("head.", "norm.", "fc.")  # what is behind the backbone
    weights_hint: ClassVar[str | None] = "The name of a satlas model is that of its weights."

    def resolve(self, name: str) -> str:
        name = name.lower()
        if not re.fullmatch(r"[\w.-]+", name) or not any(key in name for key in _ARCHITECTURES):
            raise UserError(
                f"there is no model {name!r} in satlas",
                allowed=f"names that contain {', '.join(_ARCHITECTURES)}, such as Sentinel2_SwinB_SI_RGB",
            )
        return name

    def architecture(self, name: str) -> str:
        return next(architecture for key, architecture in _ARCHITECTURES.items() if key in name)

    def identity(self, name: str, weights: str | None, published: bool) -> tuple[str, str | None]:
        if not published:
            return TORCHVISION.title(self.architecture(name)), None
        return self.title(name), _REPOSITORY

    def weights_file(self, name: str, weights: str | None) -> WeightsFile:
        from stitching.models.prefetch import HubFile

        return HubFile(_REPOSITORY, None, (f"{name}.pth",))

    def own_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        backbone = {_BACKBONE.sub("", key, count=1): value for key, value in weights.items() if _BACKBONE.match(key)}
        return backbone or dict(weights)

    def normalization(self, name: str, weights: str | None) -> tuple[Sequence[float], Sequence[float]] | None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # of 0..1


SATLAS = SOURCES.register("satlas")(SatlasModels())
