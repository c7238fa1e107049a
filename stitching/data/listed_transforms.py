"""Transforms of torchvision.transforms.v2 that a config lists by name, checked and made once."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

from stitching.config.errors import UserError, at, did_you_mean, reason_of, unknown_name

__all__ = ["TRANSFORMS", "ListedTransforms"]

# What no image of a classification gets by itself: batches, boxes, videos, functions, several crops; and the
# normalisation, which has keys of its own.
_WITHOUT = {
    "Transform", "CutMix", "MixUp", "Lambda", "FiveCrop", "TenCrop", "ClampBoundingBoxes", "ClampKeyPoints",
    "ConvertBoundingBoxFormat", "SetClampingMode", "SanitizeBoundingBoxes", "SanitizeKeyPoints", "RandomIoUCrop",
    "UniformTemporalSubsample", "Normalize",
}  # fmt: skip
TRANSFORMS: dict[str, type[v2.Transform]] = {
    name: item
    for name, item in vars(v2).items()
    if inspect.isclass(item) and issubclass(item, v2.Transform) and name not in _WITHOUT
}

# Arguments that are no plain data, by the words that YAML has for them.
_WORDS: dict[str, Mapping[str, Any]] = {
    "interpolation": {mode.value: mode for mode in InterpolationMode},
    "policy": {policy.value: policy for policy in AutoAugmentPolicy},
    "dtype": {"float32": torch.float32, "uint8": torch.uint8},
}
_SIZES_OF_TRIAL = ((5, 7), (97, 83))  # (width, height)
_TRIALS = 3  # of each, as most transforms are random


class ListedTransforms(v2.Compose):
    """The transforms of a list, one after the other, with the random choices of each.

    They get a PIL image, and from the first on that takes none a float tensor with values from 0 to 1.

    Args:
        listed: one name with its arguments each.
        size: (height, width) of the image that the network takes.
        channels: of the images, 1 or 3.

    Attributes:
        sets_size: whether they give this size to images of any size, so that nothing is to be resized before them.

    Raises:
        UserError: with the number in the list, if a name does not exist or does not take its arguments.
    """

    def __init__(self, listed: Sequence[Mapping[str, Any]], size: tuple[int, int], channels: int) -> None:
        super().__init__([nn.Identity()])
        self.transforms = _chain(_made(listed), _image((size[1], size[0]), channels))
        self.sets_size = all(_size_after(self, _image(trial, channels)) == size for trial in _SIZES_OF_TRIAL)
        if not self.sets_size and (changed := _size_after(self, _image((size[1], size[0]), channels))) != size:
            raise UserError(
                f"they make images of {size[0]}x{size[1]} {'x'.join(map(str, changed or ('no size',)))}",
                allowed=f"a list whose images are {size[0]}x{size[1]}, as image_size says",
            )


def _made(listed: Sequence[Mapping[str, Any]]) -> list[nn.Module]:
    made = []
    for number, item in enumerate(listed):
        ((name, arguments),) = item.items()
        with at(number):
            if name not in TRANSFORMS:
                raise unknown_name("transform", name, TRANSFORMS)
            with at(name):
                made.append(_create(TRANSFORMS[name], arguments or {}))
    return made


def _create(cls: type[v2.Transform], arguments: Mapping[str, Any]) -> nn.Module:
    """The transform. Raises `UserError` for an argument that it does not take."""
    allowed = [name for name in inspect.signature(cls).parameters if name != "self"]
    values = {}
    for key, value in arguments.items():
        with at(key):
            if key not in allowed:
                problem = f"{cls.__name__} takes no {key!r}{did_you_mean(key, allowed)}"
                raise UserError(problem, allowed=", ".join(allowed) or "no arguments")
            values[key] = _value(key, value)
    try:
        with warnings.catch_warnings(action="ignore"):  # that ToTensor has a successor
            return cls(**values)
    except Exception as error:  # whatever it raises, it is about the arguments
        raise UserError(f"{cls.__name__}: {reason_of(error)}") from None


def _value(key: str, value: Any) -> Any:
    """The value of an argument: lists of transforms are made, and words looked up."""
    if key == "transforms":
        if not isinstance(value, list):
            raise UserError(f"found {value!r}", allowed="a list of transforms")
        return _made([_named(item) for item in value])
    if key in _WORDS:
        if value not in _WORDS[key]:
            raise unknown_name(key, value, _WORDS[key])
        return _WORDS[key][value]
    return value


def _named(item: Any) -> Mapping[str, Any]:
    if isinstance(item, str):
        return {item: {}}
    if isinstance(item, dict) and len(item) == 1:
        return item
    raise UserError(f"{item!r} is no transform", allowed="its name, or {NAME: {ARGUMENT: VALUE}}")


def _chain(transforms: Sequence[nn.Module], image: Any) -> list[nn.Module]:
    """The transforms, each tried on what the ones before give; images become tensors before the first that needs it."""
    chain: list[nn.Module] = []
    for number, transform in enumerate(transforms):
        try:
            image = _tried(transform, image)
        except Exception as error:
            if not isinstance(image, Image.Image):
                raise _refused(number, transform, error) from None
            to_tensor = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
            try:
                image = _tried(transform, to_tensor(image))
            except Exception:  # the first error is about the image as it is
                raise _refused(number, transform, error) from None
            chain.append(to_tensor)
        chain.append(transform)
    return chain


def _refused(number: int, transform: nn.Module, error: Exception) -> UserError:
    name = type(transform).__name__
    return UserError(f"{name} does not take an image: {reason_of(error)}", path=(number, name))


def _tried(transform: nn.Module, image: Any) -> Any:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        for _ in range(_TRIALS):
            result = transform(image)
        return result


def _image(size: tuple[int, int], channels: int) -> Image.Image:
    return Image.new("RGB" if channels == 3 else "L", size)


def _size_after(transform: nn.Module, image: Image.Image) -> tuple[int, int] | None:
    """(height, width) that an image gets every time; None if they differ, or it cannot be taken."""
    sizes = set()
    try:
        with torch.random.fork_rng(devices=[]):
            for _ in range(_TRIALS):
                sizes.add(tuple(v2.functional.get_size(transform(image))))
    except Exception:  # as a crop from an image that is too small
        return None
    return sizes.pop() if len(sizes) == 1 else None  # type: ignore[return-value]
