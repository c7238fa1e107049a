"""Batches of an image folder that a test makes (fixture `folder` of conftest.py), and whether two epochs are the same."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from stitching.config.preprocessing import Preprocessing
from stitching.data.loading import Batches

Epoch = list[tuple[Tensor, Tensor]]


def pets(folder: Path, train: bool = True, augment: bool = True, **arguments: object) -> Batches:
    settings = {"batch_size": 4, "seed": 1, **arguments}
    preprocessing = Preprocessing(image_size=16, data_augmentation=augment, train_crop="pad" if augment else None)
    return Batches("image_folder", folder, preprocessing=preprocessing, split="train" if train else "test", **settings)  # type: ignore[arg-type]


def same(one: Epoch, other: Epoch) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(one, other, strict=True)
    )
