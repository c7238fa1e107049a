"""Variants: what a gaps study passes on to every job, once for each seed and each combination of the grid's values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stitching.config.errors import ErrorCollector, UserError, at
from stitching.config.job_config import JobSettings
from stitching.config.job_files import read_settings
from stitching.config.preprocessing import NOT_TESTED
from stitching.config.sweep import Sweep
from stitching.config.train_config import TrainConfig
from stitching.config.yaml import Document
from stitching.sweeps.grid_values import Combination, applied, blamed_on_grid, combinations
from stitching.training.job_checks import Images, Normalization, images_of, try_names

__all__ = ["Variant", "evaluation_only", "make_variants", "tested_settings"]


@dataclass(frozen=True)
class Variant:
    """Everything in a job but its network."""

    seed: int
    combination: Combination
    job: JobSettings
    images: Images
    normalization: Normalization

    @property
    def values(self) -> dict[str, Any]:
        """The grid's keys with what their values are called."""
        return self.combination.shown


def make_variants(sweep: Sweep, document: Document, mistakes: ErrorCollector) -> list[Variant]:
    """Every seed with every combination of the grid's values that can be had; the others are collected as mistakes.

    A mistake is a key of the grid that does not exist, or an optimizer, schedule, loss, metric, data set or
    preprocessing that does not take its arguments.

    Args:
        sweep: what the document says.
        document: the sweep's file, whose job keys the variants are made from.
        mistakes: collects what is wrong.
    """
    keys = set(JobSettings.model_fields) - {"save_dir"}
    own = {key: value for key, value in document.data.items() if key in keys}
    base = Document(document.path, own, document.locations)
    variants = []
    for combination in combinations(sweep.grid, sweep.seeds):
        with mistakes.collect():
            changed = applied(base, combination, keys, document)
            with blamed_on_grid(combination):
                job = _read(changed)
                normalization = try_names(job)
                images = images_of(job)
            variants.append(Variant(job.train_config.seed, combination, job, images, normalization))
    return variants


def _read(document: Document) -> JobSettings:
    """The settings of one variant. Errors have no line: it is that of the grid, if they are of a value there."""
    try:
        job = read_settings(JobSettings, document)
    except UserError as error:
        error.location = None
        raise
    with at("train_config"):
        if len(job.train_config.task_list) > 1:
            raise UserError(
                f"{len(job.train_config.task_list)} data sets, and a stitched network has the one head of its "
                "destination",
                allowed="one data set", path=("tasks",),
            )  # fmt: skip
    return job


_TESTED = ("dataset", "tasks", "batch_size", "loss_fn", "loss_fn_args", "validation")  # of train_config
_ALSO_TESTED = (
    "data_path", "workers", "device", "deterministic", "precision", "channels_last", "metrics_output", "plugins",
)  # fmt: skip


def evaluation_only(variant: Variant, image: Images) -> Variant:
    """The variant with which a network is only tested: without all that has no part in a test, the seed for one.

    Args:
        image: what the network takes; other images are resized to it.
    """
    channels, height, width = image.shape
    size = height if height == width else [height, width]
    sizes = {} if image == images_of(variant.job) else {"image_size": size, "channels": channels}
    only = JobSettings(**tested_settings(variant.job, **sizes))
    values = {
        key: value
        for key, value in variant.combination.values.items()
        if any(map(_has_part_in_test, (key, *value.overrides)))
    }
    return replace(variant, seed=only.train_config.seed, combination=Combination(None, values), job=only)


def tested_settings(job: JobSettings, **preprocessing: Any) -> dict[str, Any]:
    """The keys of a job that have a part in a test, for a job that only tests another network; the seed is left out.

    Args:
        job: the job.
        preprocessing: changes of its data's preprocessing.
    """
    config = job.train_config
    (task,) = config.task_list
    changed = config.preprocessing_of(task).of_tests().model_copy(update=preprocessing)
    keys: dict[str, Any] = {name: getattr(config, name) for name in _TESTED}
    if config.tasks:
        keys["tasks"] = [task.model_copy(update={"data_preprocessing": None})]
    tested = TrainConfig(data_preprocessing=changed, **keys)
    metrics = [metric for metric in job.metrics if metric.output is None]  # others look into the network
    same = {name: getattr(job, name) for name in _ALSO_TESTED}
    return {"train_config": tested, "test_only": True, "metrics": metrics, **same}


def _has_part_in_test(key: str) -> bool:
    """Whether a key of the grid makes a difference where nothing is trained."""
    top, *below = key.split(".")
    if top != "train_config" or not below:
        return top in (*_ALSO_TESTED, "metrics")
    if below[0] == "data_preprocessing":
        return len(below) == 1 or below[1] not in NOT_TESTED
    return below[0] in _TESTED
