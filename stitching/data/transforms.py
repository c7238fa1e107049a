"""From an image to a tensor: what is done to training and to test images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torchvision.transforms import InterpolationMode, v2

from stitching.config.errors import UserError, reason_of, unknown_name
from stitching.data.datasets import DatasetInfo

__all__ = ["Preprocessing", "is_random", "make_transform", "normalization"]

BIG = 96  # pixels; smaller images have no border to spare

INTERPOLATIONS = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
}
RANDOM_STEPS = (v2.RandomResizedCrop, v2.RandomCrop, v2.RandomHorizontalFlip, v2.AutoAugment)


@dataclass(frozen=True)
class Preprocessing:
    """How images become tensors. None means what suits the data set.

    Attributes:
        image_size: side of the square that goes into the network, in pixels; default: the data set's.
        data_augmentation: True or "default": training images get a flip and the AutoAugment policy of the data set,
            those of them that it has, and `train_crop`. Anything else: they are treated as test images are.
        interpolation: default: bicubic for sets of big images, since ImageNet's networks are mostly evaluated
            with it; bilinear for sets of small ones.
        crop_pct: a test image is resized so that its shorter side is `image_size / crop_pct`, and its centre is cut
            out. Default: 0.875 from 96 pixels on; below, it is resized to the square, with nothing cut off.
        train_crop: the random crop of augmentation. "random_resized": 8% to 100% of the area (Szegedy et al.,
            arXiv:1409.4842); "pad": a shift by up to an eighth of the side, 4 pixels
            of 32 (He et al., arXiv:1512.03385); "none", the default: they are cut as test images are.
        channels: 3 turns grey images into RGB, 1 the other way round; default: the data set's.
        mean, std: of each channel, or one for all of them, after scaling to 0..1; default: the data set's.
    """

    image_size: int | None = None
    data_augmentation: bool | Literal["default", "none"] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    crop_pct: float | None = None
    train_crop: Literal["random_resized", "pad", "none"] | None = None
    channels: Literal[1, 3] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None


def make_transform(info: DatasetInfo, preprocessing: Preprocessing, train: bool) -> tuple[v2.Compose, list[str]]:
    """What turns a PIL image of the data set into a normalised float32 tensor (C, H, W), H = W = the image size.

    Returns:
        the transform, and what to tell the user: a line for each setting that is ignored.

    Raises:
        UserError: a setting that is not known, or a mean or std of another number of channels.
    """
    size = preprocessing.image_size or info.image_size
    channels = preprocessing.channels or info.channels
    mode = preprocessing.interpolation or ("bicubic" if info.image_size >= BIG else "bilinear")
    if mode not in INTERPOLATIONS:
        raise unknown_name("interpolation", mode, INTERPOLATIONS, path=("interpolation",))
    interpolation = INTERPOLATIONS[mode]
    crop, notes = _training_crop(info, preprocessing) if train else (None, [])
    augmented = train and preprocessing.data_augmentation in (True, "default")

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
    mean = _of_channels("mean", preprocessing.mean or info.mean, channels, given=preprocessing.mean is not None)
    std = _of_channels("std", preprocessing.std or info.std, channels, given=preprocessing.std is not None)
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), _normalize(mean, std), v2.ToPureTensor()]
    return v2.Compose(steps), notes


def normalization(transform: v2.Compose) -> tuple[list[float], list[float]]:
    """The mean and the standard deviation of each channel that the transform takes off and divides by."""
    (step,) = (step for step in transform.transforms if isinstance(step, v2.Normalize))
    return list(step.mean), list(step.std)


def is_random(transform: v2.Compose) -> bool:
    """Whether the transform may make another tensor of the same image the next time."""
    return any(isinstance(step, RANDOM_STEPS) for step in transform.transforms)


def _training_crop(info: DatasetInfo, preprocessing: Preprocessing) -> tuple[str | None, list[str]]:
    """The random crop of the training images, None without one; and the settings that are ignored."""
    wanted, crop = preprocessing.data_augmentation, preprocessing.train_crop
    if wanted not in (None, True, False, "default", "none"):
        raise unknown_name(
            "data augmentation", wanted, ("default", "none", "true", "false"), path=("data_augmentation",)
        )
    if crop not in (None, "random_resized", "pad", "none"):
        raise unknown_name("training crop", crop, ("random_resized", "pad", "none"), path=("train_crop",))
    if wanted not in (True, "default"):
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
    """Tried once. Raises `UserError` for numbers with which images are no finite float32 numbers any more."""
    try:
        step = v2.Normalize(mean, std)
        normal = step(torch.ones(len(mean), 2, 2))
    except Exception as error:  # whatever it raises, it is about the numbers
        raise UserError(f"cannot normalise with mean {mean} and std {std}: {reason_of(error)}") from None
    if not normal.isfinite().all():
        raise UserError(f"mean {mean} and std {std} make images that are not finite")
    return step


def _of_channels(name: str, values: Sequence[float], channels: int, given: bool) -> list[float]:
    if len(values) == channels:
        return list(values)
    if len(values) == 1:
        return list(values) * channels
    if given or channels != 1:
        raise UserError(
            f"{name} has {len(values)} values; the images have {channels} channel{'s' * (channels > 1)}",
            allowed=f"1 or {channels} values" if channels > 1 else "1 value",
            path=(name,),
        )
    red, green, blue = values  # of colour images turned grey: weighted as the grey value is, ITU-R BT.601
    return [0.299 * red + 0.587 * green + 0.114 * blue]
