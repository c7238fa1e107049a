"""Whole frozen networks beside the trained ones: references to compare them with, and their teachers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError
from stitching.config.parts import BasePart
from stitching.cutting.formats import Format
from stitching.nets.build import BuildOptions, build_network

__all__ = ["FrozenNetworks", "check_classes", "network_key"]


def network_key(part: BasePart) -> str:
    """The key of a network in `FrozenNetworks`."""
    return part.model_dump_json()


def check_classes(output: Format, num_classes: int | None, used_for: str) -> None:
    """Raise `UserError` if a frozen network does not have the classes of the network that uses its scores.

    Args:
        output: the format of the frozen network's output.
        num_classes: of the other network.
        used_for: what the other network does with it, as `learns from it`, for the message.
    """
    if output.kind != "vector" or output.channels != num_classes:
        scores = f"it has {output.channels} classes" if output.kind == "vector" else f"it returns {output}"
        raise UserError(
            f"{scores}, the network that {used_for} {num_classes}", allowed="a network for the same classes"
        )


class FrozenNetworks(nn.Module):
    """Frozen networks in eval mode, each distinct one once however many runs use it.

    Args:
        image_shape: (C, H, W) of every image.
        seed: of weights that are not loaded.
    """

    def __init__(self, image_shape: tuple[int, int, int], seed: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self._image_format = Format("img", channels, (height, width))
        self._seed = seed
        self._index: dict[str, int] = {}
        self.networks = nn.ModuleList()
        self._formats: list[Format] = []
        self.eval()

    def add(self, part: BasePart, num_classes: int | None, used_for: str) -> str:
        """Build the network that `part` names, unless it is built already.

        Args:
            part: of the config.
            num_classes, used_for: as for `check_classes`.

        Returns:
            Its key, for `forward`.

        Raises:
            UserError: it does not take the images, or does not have `num_classes` classes.
        """
        key = network_key(part)
        if key not in self._index:
            network = build_network(part, self._image_format, BuildOptions(seed=self._seed))
            self._index[key] = len(self.networks)
            self._formats.append(network.out_format)
            self.networks.append(network.requires_grad_(False).eval())
        check_classes(self._formats[self._index[key]], num_classes, used_for)
        return key

    @torch.no_grad()
    def forward(self, images: Tensor, keys: Iterable[str | None]) -> dict[str | None, Tensor]:
        """The scores (N, classes) of the networks with these keys, for images (N, C, H, W)."""
        return {key: self.networks[self._index[key]](images) for key in dict.fromkeys(keys) if key is not None}
