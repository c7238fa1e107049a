"""Sources of models: their base class, and their registry.

Ours are in `stitching.models.sources`. A source imports its library inside its methods: naming a model, as tables of
results do, loads none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from stitching.config.errors import UserError
from stitching.config.registries import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn


__all__ = ["SOURCES", "ModelSource", "WeightsFile"]


class WeightsFile(Protocol):
    """A file of published weights. Equal ones are the same file, so it is hashable.

    Attributes:
        moved_by: the environment variable that moves the cache.
    """

    moved_by: ClassVar[str]

    @property
    def server(self) -> str:
        """The URL of the server that has it."""

    @property
    def cache(self) -> str:
        """The folder that it is downloaded to."""

    def cached_path(self) -> Path | None:
        """The file in the cache, from which a model is built without a network; None if there is none."""

    def origin(self) -> dict[str, str]:
        """The source of the file, as recorded with results."""

    def status(self) -> int:
        """The HTTP status of the server; raises any exception if it does not answer."""

    def download(self) -> None:
        """Download the file to the cache; raises any exception if that fails."""


class ModelSource(ABC):
    """One place that models come from; a subclass's only instance is registered in `SOURCES`.

    A config names a model of it by `backend: <source>` and `model_name: <name>`, or by the title `<source>/<name>`.

    Attributes:
        name: what titles begin with.
        key: of a part, that names a model of this source instead of `model_name`; None for none.
        is_default: whether a `model_name` without a backend is of this source.
        publishes_weights: whether its models take published weights where a config does not say.
        weights_key, weights_hint: what `weights:` is for, and how this source's weights are named instead.
    """

    name: ClassVar[str]
    key: ClassVar[str | None] = None
    is_default: ClassVar[bool] = False
    publishes_weights: ClassVar[bool] = False
    weights_key: ClassVar[str] = (
        "the name of weights of a torchvision model, without `ckp_path` and `pretrained: false`"
    )
    weights_hint: ClassVar[str | None] = None

    @abstractmethod
    def build(self, name: str, weights: str | None, args: Mapping[str, Any]) -> nn.Module:
        """The model, built under the default device: the CPU, or the meta device for shapes only.

        Args:
            name: as `resolve` returned it.
            weights: the name of the published weights to load; None for random ones.
            args: for the model's constructor; lists are tuples.

        Raises:
            Exception: any. `ValueError`, `TypeError` and so on of a constructor are shown as one message.
        """

    def resolve(self, name: str) -> str:
        """The name in the spelling that all other methods take.

        Raises:
            UserError: the source has no such model; offers the nearest.
        """
        return name

    def version(self, name: str) -> str | None:
        """The version of the model behind a name, such as the digest of a user's code; None if a name has only one."""
        return None

    def title(self, name: str) -> str:
        """What tables and messages call the model."""
        return f"{self.name}/{name}"

    @property
    def usage(self) -> str:
        """How a model is named where one text names it."""
        return f"{self.name}/NAME"

    def keys(self, name: str) -> dict[str, Any]:
        """The YAML keys of a part that name the model."""
        return {"backend": self.name, "model_name": name}

    def seed_name(self, name: str) -> tuple[str, str]:
        """What the random weights of a model depend on beside its arguments and the seed."""
        return self.name, name

    def identity(self, name: str, weights: str | None, published: bool) -> tuple[str, str | None]:
        """Of a model, and of its published weights if it takes them: the names that a run's identity has.

        Whatever builds the same has the same names, and nothing else has.
        """
        return self.title(name), weights if published else None

    def input_shape(self, name: str) -> tuple[int, int, int] | None:
        """(C, H, W) of the images that the model is made for; None: of any, so of those of the data."""
        return None

    def is_reserved(self, name: str, argument: str) -> bool:
        """Whether an argument is not the constructor's but of a function around it: a file of weights, a cache."""
        return False

    def takes_argument(self, name: str, argument: str) -> bool:
        """Whether the model can be given an argument such as `num_classes`."""
        return True

    def implied_arguments(self, name: str, weights: str | None) -> dict[str, Any]:
        """Arguments of the constructor that its published weights need where a config does not give them."""
        return {}

    def constructor_arguments(self, name: str, class_name: str) -> list[str]:
        """The names that the constructor of the model's class takes; [] if `class_name` is not that class."""
        return []

    def untraced_modules(self, name: str) -> Sequence[type[nn.Module]]:
        """Classes of modules that are one node in a graph, beside those of torch, timm and torchvision."""
        return ()

    def weights_named(self, name: str, weights: str | None) -> str | None:
        """The name of the published weights that a config asks for by `weights:`, by default the source's best.

        None where a model's name says it already, and where nothing is published.

        Raises:
            UserError: there are none of this name, or they are not named by `weights:`.
        """
        if weights is None:
            return None
        raise UserError(f"weights: {weights} of {self.title(name)}", allowed=self.weights_key, do=self.weights_hint)

    def build_error(self, name: str, error: Exception) -> UserError | None:
        """The error for the user in place of one that `build` raised, if the source has a better one."""
        return None

    def weights_file(self, name: str, weights: str | None) -> WeightsFile | None:
        """Where the published weights come from that `build` loads; None: it loads none.

        Raises:
            UserError: nobody has published weights of this model.
        """
        return None

    def adapted(self, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a file of weights (`ckp_path`) has for a model, by the model's keys.

        Args:
            weights: all that is in the file.
            expected: the model's own state, for what a file may lack.
        """
        return dict(weights)

    def normalization(self, name: str, weights: str | None) -> tuple[Sequence[float], Sequence[float]] | None:
        """Mean and std of the images that the published weights were trained on; None where nobody says."""
        return None


SOURCES: Registry[ModelSource] = Registry("backend", "stitching.models.sources")
