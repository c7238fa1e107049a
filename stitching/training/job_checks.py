"""Checks of a job before its data is opened: its images, its names and arguments, its network's cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from stitching.config.errors import UserError, at
from stitching.config.job_config import Job, JobSettings
from stitching.config.parts import BasePart
from stitching.cutting.cost import Cost, cost
from stitching.cutting.formats import Format
from stitching.data.datasets import dataset_info
from stitching.data.transforms import image_shape, make_transform, normalization
from stitching.models.weights import check_weights
from stitching.nets.build import BuildOptions, build_network
from stitching.nets.network import Network
from stitching.similarity.least_squares import build_stitched_network
from stitching.training.frozen_networks import check_classes
from stitching.training.job_data import of_dataset, same_shape
from stitching.training.metrics import make_metrics
from stitching.training.network_outputs import HookedOutputs, check_outputs
from stitching.training.optim import try_training
from stitching.training.scorer import make_losses

__all__ = [
    "Images", "Normalization", "at_network", "check_hooked_outputs", "check_teacher", "images_of", "meta_network",
    "network_cost", "try_names",
]  # fmt: skip

Normalization = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel


@dataclass(frozen=True)
class Images:
    """The images that a network takes: their shape (C, H, W), and how many classes each task has."""

    shape: tuple[int, int, int]
    classes: tuple[int, ...]

    @property
    def num_classes(self) -> int | None:
        """The classes of the only task; None if there are several."""
        return self.classes[0] if len(self.classes) == 1 else None

    @property
    def format(self) -> Format:
        """The format of one image."""
        return Format.of("img", (1, *self.shape))


def images_of(job: JobSettings) -> Images:
    """The images of the job's data sets. Raises `UserError` if there is no such data set."""
    config = job.train_config
    infos, shapes = [], []
    for i, task in enumerate(config.task_list):
        with at("train_config", *(("tasks", i) if config.tasks else ())), of_dataset():
            infos.append(dataset_info(task.dataset, job.data_path))
            shapes.append(image_shape(infos[-1], config.preprocessing_of(task)))
    return Images(same_shape(shapes), tuple(info.num_classes for info in infos))


def try_names(job: JobSettings) -> Normalization:
    """Create everything that the job names except its network, once; returns the images' normalisation.

    Raises:
        UserError: with the key of a name that does not exist, or does not take its arguments.
    """
    config = job.train_config
    classes = images_of(job).classes
    with at("train_config"):
        for i, task in enumerate(config.task_list):
            with at(*(("tasks", i) if config.tasks else ())):
                info = dataset_info(task.dataset, job.data_path)
            with at(*(("tasks", i) if task.data_preprocessing else ()), "data_preprocessing"):
                transform, _ = make_transform(info, config.preprocessing_of(task), train=True)
        make_losses(config, classes)
        # The steps of an epoch cannot be counted before the data is opened.
        in_epochs = config.lr_scheduler_args is None or config.lr_scheduler_args.cadence == "epochs"
        try_training(config, config.epochs if in_epochs and not config.max_steps else 1, None)
    make_metrics(job.metrics, job.monitor)
    for key in ("load_from", "load_head_from"):
        if path := getattr(job, key):
            with at(key):
                check_weights(path)
    mean, std = normalization(transform)
    return tuple(mean), tuple(std)


@contextmanager
def at_network(job: Job) -> Iterator[None]:
    """Put the key of the job's network in front of the paths of errors in the body."""
    with at(*(("model",) if job.model else ())):
        try:
            yield
        except UserError as error:
            if not job.model and error.path[:1] == ("Assembly",):  # the older form has other keys
                error.path = ("assembly" if error.path[1:2] == ("parts",) else "head", *error.path[2:])
            raise


def meta_network(job: Job, images: Images) -> Network:
    """The job's network on the meta device: shapes, and no weights. Raises `UserError` if it cannot be built."""
    options = BuildOptions(
        num_classes=images.num_classes, task_classes=images.classes, class_token=job.reformat_options.class_token,
        unfrozen=job.unfrozen, meta=True,
    )  # fmt: skip
    return build_stitched_network(job.network, images.format, options)


def check_hooked_outputs(network: Network, job: Job, images: Images) -> None:
    """Raise `UserError` if a metric or loss names a module that the network lacks."""
    hooked_outputs = HookedOutputs(network, job)
    if hooked_outputs.names:
        network.eval()(torch.zeros(images.format.shape(1), device="meta"))
        hooked_outputs.check()


def check_teacher(job: Job, network: Network, images: Images) -> None:
    """Raise `UserError` if the teacher that the job names does not take the images, or has other classes."""
    if job.objective is not None and job.teacher is not None and not job.test_only:
        with at("objective", job.objective.registered_name, "teacher"):
            _check_frozen(job.teacher, network, images, "learns from it")


def _check_frozen(part: BasePart, network: Network, images: Images, used_for: str) -> None:
    output = build_network(part, images.format, BuildOptions(meta=True)).out_format
    check_classes(output, network.out_format.channels, used_for)


def network_cost(job: Job, images: Images) -> Cost:
    """What the job's network costs.

    Raises:
        UserError: it cannot be built, a named module is missing in it, its outputs do not fit the data's classes, or
            its reference or teacher does not take the images or has other classes.
    """
    with at_network(job):
        network = meta_network(job, images)
    check_hooked_outputs(network, job, images)
    out: Any = network.eval()(torch.zeros(images.format.shape(1), device="meta"))
    names = [task.dataset for task in job.train_config.task_list]
    check_outputs(out, dict(zip(names, images.classes, strict=True)), "model" if job.model else "assembly")
    if job.reference is not None:
        with at("reference"):
            _check_frozen(job.reference, network, images, "is compared with it")
    check_teacher(job, network, images)
    return cost(network, images.format)
