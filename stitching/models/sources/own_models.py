"""Models of this package: `local/convnet` and `local/smallnet`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.errors import UserError, unknown_name
from stitching.config.model_sources import SOURCES, ModelSource
from stitching.models.sources.signatures import class_arguments

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LOCAL"]


# What identities and random weights call a model. smallnet was called convnet once, and its runs are still the same.
_FIRST_NAMES = {"convnet": "convnet-encoder", "smallnet": "convnet"}


class OwnModels(ModelSource):
    name: ClassVar[str] = "local"
    is_default: ClassVar[bool] = True

    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        if name == "convnet" and (of_smallnet := sorted({"width", "num_classes"} & args.keys())):
            raise UserError(
                f"convnet, an encoder of 64 channels without a head, has no argument {of_smallnet[0]!r}",
                do="The network with a head that was called convnet before is smallnet now.",
                path=(of_smallnet[0],),
            )
        return _models()[name](**args)

    def resolve(self, name: str) -> str:
        if name not in _models():
            raise unknown_name("model in local", name, _models())
        return name

    def seed_name(self, name: str) -> tuple[str, str]:
        return self.name, _FIRST_NAMES[name]

    def identity(self, name: str, weights: str | None, published: bool) -> tuple[str, str | None]:
        return self.title(_FIRST_NAMES[name]), None

    def keys(self, name: str) -> dict[str, Any]:
        return {"model_name": name}  # without a backend it is ours

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        return 3, 32, 32

    def takes_argument(self, name: str, argument: str) -> bool:
        return argument in inspect.signature(_models()[name]).parameters

    def constructor_arguments(self, name: str, class_name: str) -> list[str]:
        return class_arguments(_models()[name], class_name)


def _models() -> dict[str, type[nn.Module]]:
    from stitching.models.convnet import ConvNet
    from stitching.models.smallnet import SmallNet

    return {"convnet": ConvNet, "smallnet": SmallNet}


LOCAL = SOURCES.register("local")(OwnModels())
