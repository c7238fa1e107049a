"""The base of sources that publish a file of weights for an architecture of torchvision."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from stitching.config.errors import UserError
from stitching.config.model_sources import ModelSource, WeightsFile
from stitching.models.sources.torchvision_models import TORCHVISION

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["TorchvisionWeights"]


class TorchvisionWeights(ModelSource):
    """Models of torchvision with weights from elsewhere.

    Attributes:
        untrained: what the keys of layers begin with that the published weights need not have: they keep their initial
            values then, and where another number of classes is asked for.
    """

    publishes_weights: ClassVar[bool] = True
    untrained: ClassVar[tuple[str, ...]]

    @abstractmethod
    def architecture(self, name: str) -> str:
        """torchvision's name of a model."""

    @abstractmethod
    def weights_file(self, name: str, weights: str | None) -> WeightsFile:
        """Where the weights come from."""

    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        from stitching.models.weights import load_weights

        model = TORCHVISION.build(self.architecture(name), None, args)
        if weights and (path := self.weights_file(name, weights).cached_path()):
            try:
                load_weights(model, path, self.title(name), adapt=self.adapted)
            except UserError as error:  # whose advice is for a file of the user's own
                raise ValueError(error.problem) from None
        return model

    def adapted(self, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        adapted = self.own_weights(weights)
        initial = {key: value for key, value in expected.items() if key.startswith(self.untrained)}
        for key, value in initial.items():
            if key not in adapted or adapted[key].shape != value.shape:
                adapted[key] = value
        return adapted

    def own_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a published file by torchvision's keys, without what its model lacks."""
        return dict(weights)

    def seed_name(self, name: str) -> tuple[str, str]:
        return TORCHVISION.seed_name(self.architecture(name))

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        return TORCHVISION.input_shape(self.architecture(name))

    def is_reserved(self, name: str, argument: str) -> bool:
        return TORCHVISION.is_reserved(self.architecture(name), argument)

    def constructor_arguments(self, name: str, class_name: str) -> list[str]:
        return TORCHVISION.constructor_arguments(self.architecture(name), class_name)
