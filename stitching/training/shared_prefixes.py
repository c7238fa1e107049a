"""The frozen fronts of the networks in a loop, each distinct one computed once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stitching.cutting import cut_points
from stitching.cutting.tracing import Shape3
from stitching.models.spec import ModelSpec
from stitching.models.traced_models import traced_model
from stitching.nets.network import Network

__all__ = ["Features", "FrozenPrefix", "SharedPrefixes", "front_of", "image_shape_of"]

FrontKey = tuple[ModelSpec, int]


@dataclass(frozen=True)
class FrozenPrefix:
    """A frozen front that runs may share: a model from its input up to a cut point."""

    spec: ModelSpec
    seed: int
    end: cut_points.CutPoint
    pieces: int  # how many of the network's leading pieces it replaces
    image_shape: Shape3  # (C, H, W) of the images

    @property
    def key(self) -> FrontKey:
        """The key of its features: the model, and the index of the cut point in its graph."""
        return self.spec, self.end.index


class Features:
    """The features of frozen fronts for a batch of images."""

    def __init__(self, images: Tensor, by_front: dict[FrontKey, Tensor]) -> None:
        self._images = images
        self._by_front = by_front

    def of(self, front: FrozenPrefix | None) -> Tensor:
        """The input of a network that begins with `front`; the images for one without a front."""
        return self._images if front is None else self._by_front[front.key]


def front_of(network: Network, seed: int) -> FrozenPrefix | None:
    """The longest leading row of frozen subnets that together are the front of one model; None without any."""
    front: FrozenPrefix | None = None
    for count, piece in enumerate(network.pieces, 1):
        cut = getattr(piece.net, "cut_from", None)
        if cut is None or not piece.frozen or piece.frozen_norm != "running" or piece.before.changes:
            break
        spec, start, end = cut
        begins_there = start.index == 0 if front is None else (spec, start.index) == (front.spec, front.end.index)
        if not begins_there or piece.after.changes or end.also:  # features are one tensor
            break
        front = FrozenPrefix(spec, seed, end, count, image_shape_of(network))
    return front


def image_shape_of(network: Network) -> Shape3:
    """(C, H, W) of the images that a network takes."""
    _, channels, height, width = network.pieces[0].before.src.shape(1)
    return channels, height, width


class SharedPrefixes(nn.Module):
    """Every distinct frozen front, once: one pass through each source model, with an output at each depth.

    A model cut at several depths is a chain of subnets. That the chain computes what each front alone would, bit for
    bit, is what cutting promises.
    """

    def __init__(self, fronts: Iterable[FrozenPrefix]) -> None:
        super().__init__()
        self.chains = nn.ModuleList()
        self.ends: list[list[FrozenPrefix]] = []
        by_model: dict[tuple[ModelSpec, int], dict[int, FrozenPrefix]] = {}
        for front in fronts:
            by_model.setdefault((front.spec, front.seed), {})[front.end.index] = front
        for (spec, seed), taps in by_model.items():
            traced = traced_model(spec, seed)
            chain = nn.ModuleList()
            position = cut_points.resolve(traced, None, "input")
            for index in sorted(taps):
                end = taps[index].end
                subnet = cut_points.extract(traced, position, end)
                if subnet.sized_for not in (None, taps[index].image_shape):
                    subnet = cut_points.extract(traced, position, end, taps[index].image_shape)
                chain.append(subnet)
                position = end
            self.chains.append(chain)
            self.ends.append([taps[index] for index in sorted(taps)])
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor, fronts: Iterable[FrozenPrefix | None]) -> Features:
        """The features of images (N, C, H, W) at the given fronts."""
        needed = {front.key for front in fronts if front}
        features: dict[FrontKey, Tensor] = {}
        for chain, ends in zip(self.chains, self.ends, strict=True):
            last = max((i for i, front in enumerate(ends) if front.key in needed), default=-1)
            x = images
            for subnet, front in list(zip(chain, ends, strict=True))[: last + 1]:  # type: ignore[call-overload]
                x = subnet(x)
                features[front.key] = x
        return Features(images, features)
