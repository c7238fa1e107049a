"""Transforms from images to tensors, for training and for test images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from stitching.config.errors import UserError, reason_of
from stitching.config.train_config import Preprocessing
from stitching.data.datasets import DatasetInfo

__all__ = ["Preprocessing", "is_random", "make_transform", "normalization"]

BIG = 96  # pixels; smaller images have no border to spare

INTERPOLATIONS = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}
RANDOM_STEPS = (v2.RandomResizedCrop, v2.RandomCrop, v2.RandomHorizontalFlip, v2.AutoAugment)


def make_transform(info: DatasetInfo, preprocessing: Preprocessing, train: bool) -> tuple[v2.Compose, list[str]]:
    """The transform of a PIL image into a normalised float32 tensor (C, H, W), H = W = the image size.

    Returns:
        the transform, and a note for the user on each setting that is ignored.

    Raises:
        UserError: a mean or std of another number of channels, or with which images are not finite.
    """
    size = preprocessing.image_size or info.image_size
    channels = preprocessing.channels or info.channels
    mode = preprocessing.interpolation or ("bicubic" if info.image_size >= BIG else "bilinear")
    interpolation = INTERPOLATIONS[mode]
    crop, notes = _training_crop(info, preprocessing) if train else (None, [])
    augmented = train and preprocessing.is_augmented

    steps: list[nn.Module] = [v2.RGB() if channels == 3 else v2.Grayscale(1)]
    if crop == "random_resized":
        steps.append(v2.RandomResizedCrop(size, interpolation=interpolation))
    elif crop == "pad":
        steps += [v2.Resize((size, size), interpolation), v2.RandomCrop(size, padding=math.ceil(size / 8))]
    else:
        steps += _centre(size, preprocessing.crop_pct, interpolation)
    if augmented and info.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmented and info.policy is not None:
        steps.append(v2.AutoAugment(info.policy, interpolation))
    mean = _of_channels("mean", preprocessing.mean or info.mean, channels, is_users=preprocessing.mean is not None)
    std = _of_channels("std", preprocessing.std or info.std, channels, is_users=preprocessing.std is not None)
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), _normalize(mean, std), v2.ToPureTensor()]
    return v2.Compose(steps), notes


def normalization(transform: v2.Compose) -> tuple[list[float], list[float]]:
    """The mean that the transform subtracts from each channel, and the standard deviation that it divides by."""
    (step,) = (step for step in transform.transforms if isinstance(step, v2.Normalize))
    return list(step.mean), list(step.std)


def is_random(transform: v2.Compose) -> bool:
    """Whether the transform may give another tensor for the same image the next time."""
    return any(isinstance(step, RANDOM_STEPS) for step in transform.transforms)


def _training_crop(info: DatasetInfo, preprocessing: Preprocessing) -> tuple[str | None, list[str]]:
    """The random crop of the training images, None without one; and the settings that are ignored."""
    crop = preprocessing.train_crop
    if not preprocessing.is_augmented:
        ignored = crop not in (None, "none")
        return None, [f"train_crop: {crop} is ignored: data_augmentation is off"] if ignored else []
    if crop not in (None, "none"):
        return crop, []
    if not info.flip and info.policy is None:
        return None, [f"data_augmentation is ignored: {info.name} has no flip and no AutoAugment policy"]
    return None, []


def _centre(size: int, crop_pct: float | None, interpolation: InterpolationMode) -> list[nn.Module]:
    if crop_pct is None and size < BIG:
        return [v2.Resize((size, size), interpolation)]
    shorter = math.floor(size / (crop_pct or 0.875))  # rounded down as timm does
    return [v2.Resize(shorter, interpolation), v2.CenterCrop(size)]


def _normalize(mean: list[float], std: list[float]) -> v2.Normalize:
    """The normalisation, tried once. Raises `UserError` for numbers that make images infinite or NaN."""
    try:
        step = v2.Normalize(mean, std)
        normal = step(torch.ones(len(mean), 2, 2))
    except Exception as error:  # whatever it raises, it is about the numbers
        raise UserError(f"cannot normalise with mean {mean} and std {std}: {reason_of(error)}") from None
    if not normal.isfinite().all():
        raise UserError(f"mean {mean} and std {std} make images that are not finite")
    return step


def _of_channels(name: str, values: Sequence[float], channels: int, is_users: bool) -> list[float]:
    if len(values) == channels:
        return list(values)
    if len(values) == 1:
        return list(values) * channels
    if is_users or channels != 1:
        raise UserError(
            f"{name} has {len(values)} values; the images have {channels} channel{'s' * (channels > 1)}",
            allowed=f"1 or {channels} values" if channels > 1 else "1 value",
            path=(name,),
        )
    red, green, blue = values  # colour images turned grey: weighted as in ITU-R BT.601
    return [0.299 * red + 0.587 * green + 0.114 * blue]
