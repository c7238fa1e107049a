"""Adapters fitted to images in closed form, any number of them in one pass over the images."""

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
from stitching.training.shared_prefixes import Features, FrozenPrefix, SharedPrefixes, image_shape_of

__all__ = ["FIT_IMAGES", "Stitched", "add_moments", "chosen_images", "fit_adapters", "fronts_of", "stitched_of"]

FIT_IMAGES = 500  # what `init: least_squares` is fitted to
_BATCH = 50  # fixed, as it decides the order in which the sums are rounded


@dataclass(eq=False)
class Stitched:
    """A network with an adapter to fit, and the sums from which the fit is solved.

    Attributes:
        network: on the device of the features.
        fit: its adapter, with the model and cut point of the target.
        front: the shared front of its source; None if the network computes it itself.
        target_front: the front of the destination whose back the network has.
    """

    network: Network
    fit: Fit
    front: FrozenPrefix | None
    target_front: FrozenPrefix
    moments: Moments = field(default_factory=Moments)
    tokens: ImageVectors = field(default_factory=ImageVectors)  # for prefix tokens that the adapter makes

    def adapter_input(self, features: Features) -> Tensor:
        """The input of the adapter's piece for a batch of images."""
        x = features.of(self.front)
        for piece in self.network.pieces[self.front.pieces if self.front else 0 : self.fit.index]:
            x = piece(x)
        return x

    def target(self, features: Features) -> Tensor:
        """The features of the destination's own front for the same images."""
        return features.of(self.target_front)

    def add(self, adapter_input: Tensor, target: Tensor) -> None:
        """Add a batch to the sums."""
        self.moments.add(*self.fit.rows(adapter_input, target))
        if pairs := self.fit.token_rows(adapter_input, target):
            self.tokens.add(*pairs)

    def solve(self) -> None:
        """Give the adapter the map that fits all batches best. Raises `UserError` if that is not finite."""
        self.fit.set_weights(self.moments.least_squares(), self.tokens.ridge() if self.tokens.count else None)


def stitched_of(network: Network, fit: Fit, front: FrozenPrefix | None, seed: int) -> Stitched:
    """The network as one of those that `fit_adapters` takes; `seed` is that of its models without trained weights."""
    return Stitched(network, fit, front, FrozenPrefix(fit.model, seed, fit.start, 0, image_shape_of(network)))


def fronts_of(networks: Iterable[Stitched]) -> list[FrozenPrefix]:
    """Every front that the networks need."""
    return [front for stitched in networks for front in (stitched.front, stitched.target_front) if front]


def chosen_images(job: JobSettings, count: int, split: Split) -> Batches:
    """`count` of the job's images, chosen by its seed, without augmentation.

    Raises:
        UserError: there is no such data set.
    """
    config = job.train_config
    (task,) = config.task_list
    with at("train_config", *(("tasks", 0) if config.tasks else ()), "dataset"):
        return Batches(
            task.dataset, job.data_path, preprocessing=config.preprocessing_of(task).of_tests(),
            batch_size=_BATCH, seed=config.seed, split=split, validation=held_out(config), only=count, drop_last=False,
        )  # fmt: skip


@torch.no_grad()
def add_moments(
    networks: Sequence[Stitched],
    shared_prefixes: SharedPrefixes,
    batches: Batches,
    device: torch.device,
    on_progress: Callable[[int, int], object] = lambda *_: None,
    on_batch: Callable[[list[tuple[Tensor, Tensor]]], object] = lambda _: None,
) -> None:
    """Add the batches to every network's sums, in full precision and eval mode.

    Args:
        on_progress: shows progress, in batches.
        on_batch: called after each batch with every network's adapter input and target.
    """
    for stitched in networks:
        stitched.network.eval()
    fronts = fronts_of(networks)
    for number, (images, _) in enumerate(batches.epoch(0)):
        on_progress(number, len(batches))
        features = shared_prefixes(images.to(device), fronts)
        pairs = [(stitched.adapter_input(features), stitched.target(features)) for stitched in networks]
        for stitched, pair in zip(networks, pairs, strict=True):
            stitched.add(*pair)
        on_batch(pairs)


def fit_adapters(networks: Sequence[Stitched], job: JobSettings, device: torch.device) -> None:
    """Give the adapter of each network the map that fits best on `FIT_IMAGES` training images of the job.

    The map of a network is the same, bit for bit, whatever other networks are fitted with it.
    """
    try:
        shared_prefixes = SharedPrefixes(fronts_of(networks)).to(device)
    finally:
        forget_models()
    add_moments(networks, shared_prefixes, chosen_images(job, FIT_IMAGES, "train"), device)
    for stitched in networks:
        stitched.solve()
