"""Adapters fitted to images in closed form, as many as there are, in one pass over the images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stitching.config.errors import at
from stitching.config.job_config import JobSettings
from stitching.data.loading import Batches, Split
from stitching.models.traced_models import forget_models
from stitching.nets.network import Network
from stitching.similarity.least_squares import Fit
from stitching.similarity.measures import ImageVectors, Moments
from stitching.training.job_data import held_out
from stitching.training.shared_prefixes import FrozenPrefix, SharedPrefixes

__all__ = [
    "FIT_IMAGES", "Features", "Stitched", "add_moments", "chosen_images", "features_of", "fit_adapters", "fronts_of",
    "stitched_of",
]  # fmt: skip

FIT_IMAGES = 500  # what `init: least_squares` is fitted to
_BATCH = 50  # fixed, as it decides the order in which the sums are rounded


@dataclass(eq=False)
class Stitched:
    """A network with an adapter to be fitted, and what its fit has seen.

    Attributes:
        network: it is on the device that the features are on.
        fit: where its adapter stands.
        front: the shared front that its source is; None if the network computes it from the images itself.
        target: the destination's own front, up to where the network has the rest of it.
    """

    network: Network
    fit: Fit
    front: FrozenPrefix | None
    target: FrozenPrefix
    moments: Moments = field(default_factory=Moments)
    tokens: ImageVectors = field(default_factory=ImageVectors)  # for prefix tokens that the adapter is to make

    def arriving(self, images: Tensor, features: Features) -> Tensor:
        """What comes to the adapter's piece, for images (N, C, H, W)."""
        x, first = (images, 0) if self.front is None else (features[_key(self.front)], self.front.pieces)
        for piece in self.network.pieces[first : self.fit.place]:
            x = piece(x)
        return x

    def wanted(self, features: Features) -> Tensor:
        """What the destination's own front makes of the same images."""
        return features[_key(self.target)]

    def see(self, arriving: Tensor, wanted: Tensor) -> None:
        """Take note of a batch, by what comes to the adapter's piece and what the destination's own front makes."""
        self.moments.add(*self.fit.rows(arriving, wanted))
        if pairs := self.fit.token_rows(arriving, wanted):
            self.tokens.add(*pairs)

    def solve(self) -> None:
        """Give the adapter what fits best to all that was seen. Raises `UserError` if that is not finite."""
        self.fit.put(self.moments.least_squares(), self.tokens.ridge() if self.tokens.count else None)


Features = dict[tuple[object, int], Tensor]


def stitched_of(network: Network, fit: Fit, front: FrozenPrefix | None, seed: int) -> Stitched:
    """The network as one of those that `fit_adapters` takes; `seed` is that of its models without trained weights."""
    return Stitched(network, fit, front, FrozenPrefix(fit.model, seed, fit.start, 0))


def fronts_of(several: Iterable[Stitched]) -> list[FrozenPrefix]:
    """Every front that has to be computed for the networks."""
    return [front for each in several for front in (each.front, each.target) if front]


def _key(front: FrozenPrefix) -> tuple[object, int]:
    return front.spec, front.end.index


def features_of(several: Sequence[Stitched], shared_prefixes: SharedPrefixes, images: Tensor) -> Features:
    """What every front of the networks makes of images (N, C, H, W): each once."""
    return dict(shared_prefixes(images, {(front.spec, front.end.index) for front in fronts_of(several)}))


def chosen_images(job: JobSettings, count: int, split: Split) -> Batches:
    """So many of the job's images, chosen by its seed, all of them without augmentation.

    Raises:
        UserError: there is no such data set.
    """
    config = job.train_config
    (task,) = config.task_list
    with at("train_config", *(("tasks", 0) if config.tasks else ()), "dataset"):
        return Batches(
            task.dataset, job.data_path, preprocessing=config.data_preprocessing.of_tests(),
            batch_size=_BATCH, seed=config.seed, split=split, validation=held_out(config), only=count, drop_last=False,
        )  # fmt: skip


@torch.no_grad()
def add_moments(
    several: Sequence[Stitched],
    shared_prefixes: SharedPrefixes,
    batches: Batches,
    device: torch.device,
    on_progress: Callable[[int, int], object] = lambda *_: None,
    seen: Callable[[list[tuple[Tensor, Tensor]]], object] = lambda _: None,
) -> None:
    """Let every network's fit see the batches, in full precision and eval mode.

    Args:
        on_progress: shows progress, in batches.
        seen: is given, batch by batch, what arrived in each network and what its destination's own front computed.
    """
    for each in several:
        each.network.eval()
    for number, (images, _) in enumerate(batches.epoch(0)):
        on_progress(number, len(batches))
        x = images.to(device)
        features = features_of(several, shared_prefixes, x)
        pairs = [(each.arriving(x, features), each.wanted(features)) for each in several]
        for each, pair in zip(several, pairs, strict=True):
            each.see(*pair)
        seen(pairs)


def fit_adapters(several: Sequence[Stitched], job: JobSettings, device: torch.device) -> None:
    """Give the adapter of each network the map that fits best on `FIT_IMAGES` training images of the job.

    The map of a network is the same, bit for bit, whatever other networks are fitted with it.
    """
    try:
        shared_prefixes = SharedPrefixes(fronts_of(several)).to(device)
    finally:
        forget_models()
    add_moments(several, shared_prefixes, chosen_images(job, FIT_IMAGES, "train"), device)
    for each in several:
        each.solve()
