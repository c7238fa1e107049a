"""Settings: what a sweep passes on to every job, once for each seed and each combination of the grid's values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stitching.config.errors import ErrorCollector, UserError, at, unknown_name
from stitching.config.job_config import JobSettings
from stitching.config.job_files import override
from stitching.config.schema import validated
from stitching.config.sweep import Sweep
from stitching.config.train_config import TrainConfig
from stitching.config.yaml import Document
from stitching.data.datasets import dataset_info
from stitching.data.transforms import make_transform, normalization
from stitching.models.weights import read_weights
from stitching.training.losses import make_loss
from stitching.training.metrics import make_metrics
from stitching.training.optim import try_training

__all__ = ["Images", "Variant", "evaluation_only", "images_of", "make_variants"]


@dataclass(frozen=True)
class Images:
    """What every network of a sweep is given: images of shape (C, H, W), of so many classes."""

    shape: tuple[int, int, int]
    num_classes: int


@dataclass(frozen=True)
class Variant:
    """Everything in a job but its network."""

    seed: int
    values: dict[str, Any]  # the grid's
    job: JobSettings
    images: Images
    normalization: tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel


_NOT_TO_VARY = {"save_dir", "metrics_output", "resume_from", "plugins"}  # where results are does not make another run


def make_variants(sweep: Sweep, mistakes: ErrorCollector) -> list[Variant]:
    """Every seed with every combination of the grid's values that can be had; the others are noted as mistakes.

    A mistake is a key of the grid that does not exist, or an optimizer, schedule, loss, metric, data set or
    preprocessing that does not take its arguments.
    """
    base = sweep.model_dump(mode="json", include=set(JobSettings.model_fields) - {"save_dir"}, exclude_none=True)
    settings = []
    for seed in sweep.seeds or [sweep.train_config.seed]:
        for chosen in itertools.product(*sweep.grid.values()):
            values = dict(zip(sweep.grid, chosen, strict=True))
            with mistakes.collect():
                data = _with_values(base, {"train_config.seed": seed, **values})
                with _blamed_on_grid(sweep, values):
                    job = validated(JobSettings, Document(Path("grid"), data))
                    images, normalized = _tried(job)
                settings.append(Variant(job.train_config.seed, values, job, images, normalized))
    return settings


_TESTED = ("dataset", "tasks", "batch_size", "loss_fn", "loss_fn_args", "validation")  # of train_config
_ALSO_TESTED = (
    "data_path", "workers", "device", "deterministic", "precision", "channels_last", "metrics_output", "plugins",
)  # fmt: skip
_NOT_TESTED = {"data_augmentation": "none", "train_crop": None}  # of the preprocessing


def evaluation_only(variant: Variant, image: Images) -> Variant:
    """The variant with which a network is only tested: without all that has no part in a test, the seed for one.

    Args:
        image: what the network takes; other images are resized to it.
    """
    job, config = variant.job, variant.job.train_config
    channels, size, _ = image.shape
    given = config.data_preprocessing.model_copy(update=_NOT_TESTED)
    if image != images_of(job):
        given = given.model_copy(update={"image_size": size, "channels": channels})
    tested = TrainConfig(data_preprocessing=given, **{name: getattr(config, name) for name in _TESTED})
    metrics = [metric for metric in job.metrics if metric.output is None]  # others look into a stitched network
    same = {name: getattr(job, name) for name in _ALSO_TESTED}
    only = JobSettings(train_config=tested, test_only=True, metrics=metrics, **same)
    values = {key: value for key, value in variant.values.items() if _has_part_in_test(key)}
    return replace(variant, seed=tested.seed, values=values, job=only)


def _has_part_in_test(key: str) -> bool:
    """Whether a key of the grid makes a difference where nothing is trained."""
    top, *below = key.split(".")
    if top != "train_config" or not below:
        return top in (*_ALSO_TESTED, "metrics")
    if below[0] == "data_preprocessing":
        return len(below) == 1 or below[1] not in _NOT_TESTED
    return below[0] in _TESTED


def images_of(job: JobSettings) -> Images:
    """The images that the job is given. Raises `UserError` if there is no such data set."""
    config = job.train_config
    with at("train_config", *(("tasks", 0) if config.tasks else ())):
        info = dataset_info(config.task_list[0].dataset, job.data_path)
    size = config.data_preprocessing.image_size or info.image_size
    return Images((config.data_preprocessing.channels or info.channels, size, size), info.num_classes)


def _with_values(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of `base` with values at dotted keys."""
    document = Document(Path("grid"), _copied(base))
    for dotted, value in values.items():
        first = dotted.split(".")[0]
        with at("grid", dotted):
            if first not in JobSettings.model_fields or first in _NOT_TO_VARY:
                raise unknown_name(
                    "job key to vary called", dotted, sorted(set(JobSettings.model_fields) - _NOT_TO_VARY)
                )
            try:
                override(document, dotted, value, "grid")
            except UserError as error:
                raise UserError(f"{'.'.join(map(str, error.path))}: {error.problem}") from None
    data: dict[str, Any] = document.data
    return data


def _copied(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copied(value) for key, value in data.items()}
    return [_copied(item) for item in data] if isinstance(data, list) else data


@contextmanager
def _blamed_on_grid(sweep: Sweep, values: dict[str, Any]) -> Iterator[None]:
    """Errors below a key of the grid point to the value there, not to the place that it takes."""
    try:
        yield
    except UserError as error:
        found = ".".join(map(str, error.path))
        for key, value in values.items():
            if found == key and error.problem.startswith("unknown key"):  # whatever its values
                raise UserError(error.problem, allowed=error.allowed, path=("grid", key)) from None
            if f"{found}.".startswith(f"{key}.") or f"{key}.".startswith(f"{found}."):
                error_in_grid = UserError(
                    f"{value!r}: {error.problem}", allowed=error.allowed, do=error.do,
                    path=("grid", key, sweep.grid[key].index(value)),
                )  # fmt: skip
                raise error_in_grid from None
        error.place = None  # of the file; the data that was validated has no lines
        raise


def _tried(job: JobSettings) -> tuple[Images, tuple[tuple[float, ...], tuple[float, ...]]]:
    """The images that the job is given, and mean and standard deviation of their channels.

    Everything else that a name in the job stands for is made once, and dropped.
    """
    config = job.train_config
    with at("train_config"):
        if len(config.task_list) > 1:
            raise UserError(
                f"{len(config.task_list)} data sets, and a stitched network has the one head of its destination",
                allowed="one data set", path=("tasks",),
            )  # fmt: skip
        with at(*(("tasks", 0) if config.tasks else ())):
            info = dataset_info(config.task_list[0].dataset, job.data_path)
        with at("data_preprocessing"):
            transform, _ = make_transform(info, config.data_preprocessing, train=True)
        make_loss(config.loss_fn, config.loss_fn_args, info.num_classes)
        for i, term in enumerate(config.aux_losses):
            with at("aux_losses", i):
                make_loss(term.loss_fn, term.loss_fn_args, info.num_classes)
        # How many steps an epoch has is not known before the data is opened.
        in_epochs = config.lr_scheduler_args is None or config.lr_scheduler_args.cadence == "epochs"
        try_training(config, config.epochs if in_epochs and not config.max_steps else 1, None)
    make_metrics(job.metrics)
    if job.load_from:
        with at("load_from"):
            read_weights(job.load_from)
    mean, std = normalization(transform)
    return images_of(job), (tuple(mean), tuple(std))
