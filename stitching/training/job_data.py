"""The data that the jobs of one loop share: their tasks' batches, and what makes two jobs share them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from stitching.config.errors import UserError, at
from stitching.config.job_config import Job
from stitching.config.train_config import TaskConfig, TrainConfig
from stitching.cutting.tracing import Shape3
from stitching.data.loading import Batches, Split, derive_seed
from stitching.models.random_networks import ImageSample

__all__ = ["TaskData", "held_out", "of_dataset", "same_shape", "sample_of", "shared_key"]

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
    first = config.task_list[0]
    preprocessing = config.preprocessing_of(first).of_tests()
    return ImageSample(first.dataset, job.data_path, preprocessing, config.seed, held_out(config))


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
        self.names = [task.dataset for task in config.task_list]
        self.train: list[Batches] = []
        self.val: list[Batches] = []
        self.test: list[Batches] = []
        sets: list[tuple[Split, list[Batches]]] = [("train", self.train), ("val", self.val), ("test", self.test)]
        for i, task in enumerate(config.task_list):
            with at("train_config", *(("tasks", i) if config.tasks else ())), of_dataset():
                for split, batches in sets:
                    if split == "val" and not config.validation:
                        continue
                    batches.append(
                        Batches(
                            task.dataset, job.data_path, preprocessing=config.preprocessing_of(task),
                            batch_size=task.batch_size or config.batch_size,
                            seed=config.seed, split=split, validation=held_out(config), workers=job.workers,
                            pin_memory=pin_memory,
                            max_batches=_fewest(config, task) if split == "train" else max_test_batches, share=share,
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
        return same_shape([batches.shape for batches in self.train])

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


def same_shape(shapes: Sequence[Shape3]) -> Shape3:
    """(C, H, W) of the images of all tasks, from those of each. Raises `UserError` if they differ."""
    first, *others = shapes
    for i, other in enumerate(others, 1):
        if other != first:
            raise UserError(
                f"its images are {'x'.join(map(str, other))}, those of the first task {'x'.join(map(str, first))}",
                do="Set image_size and channels in data_preprocessing.",
                path=("train_config", "tasks", i),
            )
    return first


def _fewest(config: TrainConfig, task: TaskConfig) -> int | None:
    """The batches that an epoch of a task ends after."""
    limits = [limit for limit in (config.max_batches, task.max_batches) if limit is not None]
    return min(limits, default=None)


@contextmanager
def of_dataset() -> Iterator[None]:
    """Errors that name no key of their own are about the data set."""
    try:
        yield
    except UserError as error:
        error.path = error.path or ("dataset",)
        raise
