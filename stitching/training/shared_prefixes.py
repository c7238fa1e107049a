"""What several runs have in common, computed once: their data, and the frozen fronts of their networks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stitching.config.errors import UserError, at
from stitching.config.job_config import Job
from stitching.config.train_config import TrainConfig
from stitching.cutting import cut_points
from stitching.data.loading import Batches, Split, derive_seed
from stitching.data.transforms import Preprocessing
from stitching.models.random_networks import ImageSample
from stitching.models.sources import ModelSpec
from stitching.nets.build import traced_model
from stitching.nets.network import Network

__all__ = ["FrozenPrefix", "SharedPrefixes", "TaskData", "front_of", "held_out", "sample_of", "shared_key"]

Batch = list[tuple[Tensor, Tensor]]  # images and labels, a pair for each task


def shared_key(job: Job) -> str:
    """Equal for jobs that may share a loop: same data, order, preprocessing and arithmetic."""
    config = job.train_config
    return json.dumps(
        [
            [task.model_dump() for task in config.task_list], config.data_preprocessing.model_dump(), config.seed,
            held_out(config), config.max_batches, job.data_path, job.workers, job.device, job.precision,
            job.channels_last, job.deterministic, job.compile,
        ]
    )  # fmt: skip


def held_out(config: TrainConfig) -> tuple[float, int] | None:
    """The validation split as `Batches` takes it."""
    return (config.validation.fraction, config.validation.seed) if config.validation else None


def sample_of(job: Job) -> ImageSample:
    """Images of the job's first task as it tests them, for what random networks need of the data."""
    config = job.train_config
    given: dict[str, Any] = config.data_preprocessing.model_dump(exclude_none=True)
    given |= {key: tuple(value) for key, value in given.items() if isinstance(value, list)}
    preprocessing = replace(Preprocessing(**given), data_augmentation="none", train_crop=None)
    return ImageSample(config.task_list[0].dataset, job.data_path, preprocessing, config.seed, held_out(config))


class TaskData:
    """The training, validation and test batches of a job's tasks, side by side; of validation there may be none.

    An epoch is as long as the largest task; the smaller ones begin again within it, in a new order. `share` is the part
    of every batch that is loaded here, as for `Batches`.
    """

    def __init__(
        self,
        job: Job,
        *,
        pin_memory: bool = False,
        max_test_batches: int | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        config = job.train_config
        preprocessing = Preprocessing(**config.data_preprocessing.model_dump(exclude_none=True))
        self.names = [task.dataset for task in config.task_list]
        self.train: list[Batches] = []
        self.val: list[Batches] = []
        self.test: list[Batches] = []
        sets: list[tuple[Split, list[Batches]]] = [("train", self.train), ("val", self.val), ("test", self.test)]
        for i, task in enumerate(config.task_list):
            with at("train_config", *(("tasks", i) if config.tasks else ())), _of_dataset():
                for split, batches in sets:
                    if split == "val" and not config.validation:
                        continue
                    batches.append(
                        Batches(
                            task.dataset, job.data_path, preprocessing=preprocessing,
                            batch_size=task.batch_size or config.batch_size,
                            seed=config.seed, split=split, validation=held_out(config), workers=job.workers,
                            pin_memory=pin_memory,
                            max_batches=config.max_batches if split == "train" else max_test_batches, share=share,
                        )
                    )  # fmt: skip
        self.batches_per_epoch = max(map(len, self.train))

    @property
    def tests(self) -> list[tuple[str, list[Batches]]]:
        """What a network is tested on, with the word for it in the columns of the result."""
        return [("Test", self.test), *([("Val", self.val)] if self.val else [])]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image. Raises `UserError` if the tasks' images differ."""
        first, *others = [(each.channels, each.image_size, each.image_size) for each in self.train]
        for i, other in enumerate(others, 1):
            if other != first:
                raise UserError(
                    f"its images are {'x'.join(map(str, other))}, those of the first task {'x'.join(map(str, first))}",
                    do="Set image_size and channels in data_preprocessing.",
                    path=("train_config", "tasks", i),
                )
        return first

    def epoch(self, epoch: int, start: int) -> Iterator[Batch]:
        """The training batches of an epoch from number `start` on."""
        streams = [self._from(batches, epoch, start) for batches in self.train]
        return map(list, zip(*streams, strict=True))

    def _from(self, batches: Batches, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        index = start
        while index < self.batches_per_epoch:
            rounds, offset = divmod(index, len(batches))
            order = epoch if rounds == 0 else derive_seed(epoch, rounds)
            for batch in batches.epoch(order, offset):
                yield batch
                index += 1
                if index == self.batches_per_epoch:
                    return


@contextmanager
def _of_dataset() -> Iterator[None]:
    """Errors that name no key of their own are about the data set."""
    try:
        yield
    except UserError as error:
        error.path = error.path or ("dataset",)
        raise


@dataclass(frozen=True)
class FrozenPrefix:
    """A frozen front that runs may share: a model from its input up to a cut point."""

    spec: ModelSpec
    seed: int
    end: cut_points.CutPoint
    pieces: int  # how many of the network's leading pieces it stands for


def front_of(network: Network, seed: int) -> FrozenPrefix | None:
    """The longest leading row of frozen subnets that together are the front of one model; None without any."""
    front: FrozenPrefix | None = None
    for count, piece in enumerate(network.pieces, 1):
        cut = getattr(piece.net, "cut_from", None)
        if cut is None or not piece.frozen or piece.frozen_norm != "running" or piece.before.changes:
            break
        spec, start, end = cut
        begins_there = start.index == 0 if front is None else (spec, start.index) == (front.spec, front.end.index)
        if not begins_there or piece.after.changes:
            break
        front = FrozenPrefix(spec, seed, end, count)
    return front


class SharedPrefixes(nn.Module):
    """Every distinct frozen front, once: one pass through each source model, with a tap at each depth.

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
                chain.append(cut_points.extract(traced, position, taps[index].end))
                position = taps[index].end
            self.chains.append(chain)
            self.ends.append([taps[index] for index in sorted(taps)])
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, images: Tensor, wanted: set[tuple[ModelSpec, int]]) -> dict[tuple[ModelSpec, int], Tensor]:
        """The features at the wanted taps, named by model and place in its graph; images (N, C, H, W)."""
        features = {}
        for chain, ends in zip(self.chains, self.ends, strict=True):
            last = max((i for i, front in enumerate(ends) if (front.spec, front.end.index) in wanted), default=-1)
            x = images
            for subnet, front in list(zip(chain, ends, strict=True))[: last + 1]:  # type: ignore[call-overload]
                x = subnet(x)
                features[front.spec, front.end.index] = x
        return features
