"""Transforms from images to tensors, for training and for test images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from stitching.config.errors import UserError, at, reason_of
from stitching.config.preprocessing import Preprocessing
from stitching.data.datasets import DatasetInfo
from stitching.data.listed_transforms import ListedTransforms

__all__ = ["Preprocessing", "image_shape", "is_random", "make_transform", "normalization"]

BIG = 96  # pixels; smaller images have no border to spare

INTERPOLATIONS = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}
RANDOM_STEPS = (v2.RandomResizedCrop, v2.RandomCrop, v2.RandomHorizontalFlip, v2.AutoAugment, ListedTransforms)


def image_shape(info: DatasetInfo, preprocessing: Preprocessing) -> tuple[int, int, int]:
    """(C, H, W) of the images of a data set."""
    size = preprocessing.image_size or info.image_size
    height, width = size if isinstance(size, list) else (size, size)
    return preprocessing.channels or info.channels, height, width


def make_transform(info: DatasetInfo, preprocessing: Preprocessing, train: bool) -> tuple[v2.Compose, list[str]]:
    """The transform of a PIL image into a normalised float32 tensor (C, H, W) of `image_shape`.

    Returns:
        the transform, and a note for the user on each setting that is ignored.

    Raises:
        UserError: a mean or std of another number of channels, or with which images are not finite; or a listed
            transform that does not exist, or does not take its arguments.
    """
    preprocessing = preprocessing.in_one_spelling
    channels, *size = image_shape(info, preprocessing)
    mode = preprocessing.interpolation or ("bicubic" if info.image_size >= BIG else "bilinear")
    interpolation = INTERPOLATIONS[mode]
    crop, notes = _training_crop(info, preprocessing) if train else (None, [])
    listed = _listed(preprocessing, size, channels) if train else None
    augmented = train and preprocessing.is_augmented and not listed

    steps: list[nn.Module] = [v2.RGB() if channels == 3 else v2.Grayscale(1)]
    if crop == "random_resized":
        scale = preprocessing.random_resize_scale or (0.08, 1.0)
        steps.append(v2.RandomResizedCrop(size, tuple(scale), interpolation=interpolation))  # type: ignore[arg-type]
    elif crop == "pad":
        padding = [math.ceil(side / 8) for side in reversed(size)]
        steps += [v2.Resize(size, interpolation), v2.RandomCrop(size, padding=padding)]
    elif listed is None or not listed.sets_size:
        steps += _resized(size, preprocessing, interpolation)
    if augmented and info.flip:
        steps.append(v2.RandomHorizontalFlip())
    if augmented and info.policy is not None:
        steps.append(v2.AutoAugment(info.policy, interpolation))
    if listed:
        steps += [listed, v2.RGB() if channels == 3 else v2.Grayscale(1)]
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
    if preprocessing.random_resize_scale:
        return crop, []
    if not preprocessing.is_augmented:
        ignored = crop not in (None, "none")
        return None, [f"train_crop: {crop} is ignored: data_augmentation is off"] if ignored else []
    if crop not in (None, "none"):
        return crop, []
    if not preprocessing.listed_transforms and not info.flip and info.policy is None:
        return None, [f"data_augmentation is ignored: {info.name} has no flip and no AutoAugment policy"]
    return None, []


def _listed(preprocessing: Preprocessing, size: list[int], channels: int) -> ListedTransforms | None:
    """The transforms that the config lists. Raises `UserError` if one of them cannot be had."""
    if not preprocessing.listed_transforms:
        return None
    with at("data_augmentation"):
        return ListedTransforms(preprocessing.listed_transforms, (size[0], size[1]), channels)


def _resized(size: list[int], preprocessing: Preprocessing, interpolation: InterpolationMode) -> list[nn.Module]:
    """What gives an image the size (height, width), as `resize_mode` and `crop_pct` say."""
    crop_pct, mode = preprocessing.crop_pct, preprocessing.resize_mode
    if mode is None:
        mode = "squash" if crop_pct is None and min(size) < BIG else "crop"
    if mode == "squash":
        return [v2.Resize(size, interpolation)]
    if mode == "pad":
        return [_Scaled(size, interpolation, covers=False), v2.CenterCrop(size)]
    covered = [math.floor(side / (crop_pct or 0.875)) for side in size]  # rounded down as timm does
    is_square = size[0] == size[1]
    resize = v2.Resize(covered[0], interpolation) if is_square else _Scaled(covered, interpolation, covers=True)
    return [resize, v2.CenterCrop(size)]


class _Scaled(nn.Module):
    """Resizes a PIL image, its aspect ratio kept, so that it just covers a size, or just fits into it."""

    def __init__(self, size: list[int], interpolation: InterpolationMode, *, covers: bool) -> None:
        super().__init__()
        self.size, self.interpolation, self.choose = size, interpolation, max if covers else min

    def forward(self, image: Image.Image) -> Image.Image:
        scale = self.choose(self.size[0] / image.height, self.size[1] / image.width)
        sides = [max(1, round(image.height * scale)), max(1, round(image.width * scale))]
        return v2.functional.resize(image, sides, self.interpolation)


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
