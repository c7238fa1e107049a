"""`published: true`: what published sweeps did where their files say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from torchvision.transforms import v2

from stitching.config.job_config import Job
from stitching.config.yaml import Document
from stitching.data.datasets import dataset_info
from stitching.data.transforms import make_transform
from stitching.runs.identity import identity
from stitching.runs.kinds import read_job
from stitching.training.job_data import TaskData
from stitching.training.run_builder import build_network_of


def job(training: dict[str, Any] | None = None, **keys: Any) -> Job:
    parts = [{"ResNetBasicBlock": {"norm_type": "groupnorm", "out_channels": 32}}, {"ClassifierHead": {}}]
    data = {"assembly": parts, "train_config": {"dataset": "digits"} | (training or {}), **keys}
    return read_job(Document(Path("/nowhere/config.yml"), data))


def steps(of: Job, train: bool) -> list[nn.Module]:
    info = dataset_info("imagenet", None)
    return list(make_transform(info, of.train_config.data_preprocessing, train)[0].transforms)


def test_training_images_are_cropped_a_little_and_test_images_resized():
    published = job({"data_augmentation": True}, published=True)
    (crop,) = (step for step in steps(published, True) if isinstance(step, v2.RandomResizedCrop))
    assert tuple(crop.scale) == (0.9, 1.0)
    (resize,) = (step for step in steps(published, False) if isinstance(step, v2.Resize | v2.CenterCrop))
    assert list(resize.size) == [224, 224]
    ours = steps(job({"data_augmentation": True}), False)
    assert [type(step) for step in ours if isinstance(step, v2.Resize | v2.CenterCrop)] == [v2.Resize, v2.CenterCrop]


def test_adam_where_nothing_is_said():
    assert job(published=True).train_config.optimizer == "Adam"
    assert job({"optimizer": "SGD", "lr": 0.1}, published=True).train_config.optimizer == "SGD"
    assert job().train_config.optimizer == job(published=False).train_config.optimizer == "AdamW"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ("squash", "random_resized", [0.9, 1.0])),
        ({"crop_pct": 0.9}, (None, "random_resized", [0.9, 1.0])),
        ({"resize_mode": "pad"}, ("pad", "random_resized", [0.9, 1.0])),
        ({"train_crop": "pad"}, ("squash", "pad", None)),
        ({"data_augmentation": False}, ("squash", None, None)),
        ({"random_resize_scale": [0.5, 1.0]}, ("squash", "random_resized", [0.5, 1.0])),
    ],
    ids=str,
)
def test_what_is_said_stays(said, expected):
    images = job({"data_preprocessing": said}, published=True).train_config.data_preprocessing
    assert (images.resize_mode, images.train_crop, images.random_resize_scale) == expected


def test_group_norm_has_one_group():
    data = TaskData(job())
    for published, groups in ((True, 1), (False, 32)):
        network = build_network_of(job(published=published), data)
        norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
        assert [norm.num_groups for norm in norms] == [groups] * 3


def test_the_config_that_a_published_run_leaves_is_the_same_run():
    published = job(published=True)
    again = read_job(Document(Path("/nowhere/config.yml"), published.to_yaml()))
    assert identity(again) == identity(published) != identity(job())
