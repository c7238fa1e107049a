"""The data sets that torchvision has a class for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchvision import datasets
from torchvision.transforms import AutoAugmentPolicy

from stitching.config.errors import UserError
from stitching.data.datasets import ImageDataset, dataset

__all__ = ["python_command"]

_WRONG_FILES = (RuntimeError, OSError, ValueError, AssertionError, EOFError, pickle.UnpicklingError)


def _open(
    name: str, kind: Callable[..., Any], splits: tuple[dict[str, Any], dict[str, Any]], more: dict[str, Any],
    get: str | None, data_path: Path, train: bool,
) -> ImageDataset:  # fmt: skip
    own_folder = data_path / name
    first_error: Exception | None = None
    for root in (own_folder, data_path):
        if not root.is_dir():
            continue
        try:
            return kind(root, **splits[0 if train else 1], **more)
        except _WRONG_FILES as error:  # each set has its own exception for files that are missing or broken
            first_error = first_error or error
    # torchvision's own hint is left out: a config has no download=True
    problem = " ".join(str(first_error).split()).partition(" You can ")[0]
    reason = f" ({problem})" if first_error else f": there is no folder {data_path}"
    get = get or f"With internet: {python_command(kind, own_folder, *splits)}"
    raise UserError(
        f"there is no data set {name!r} in {own_folder} or in {data_path}{reason}",
        do=f"Set data_path, or make a symbolic link: ln -s /where/it/is {own_folder}\n  {get}",
    )


def python_command(kind: Any, root: Path, *splits: dict[str, Any], download: bool = True) -> str:
    more = {"download": True} if download else {}
    calls = (", ".join(f"{key}={value!r}" for key, value in (split | more).items()) for split in splits)
    commands = "; ".join(f"S(R, {call})" for call in calls)
    return f'python -c "from torchvision.datasets import {kind.__name__} as S; R = {str(root)!r}; {commands}"'


def _register(
    name: str,
    kind: Callable[..., Any],
    num_classes: int,
    train: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
    *,
    more: dict[str, Any] | None = None,
    get: str | None = None,
    **attributes: Any,
) -> None:
    """Register a data set; `train` and `test` are the arguments of its class for the two splits, `more` for both."""
    splits = (train or {"split": "train"}, test or {"split": "test"})

    def opener(data_path: Path, is_train: bool) -> ImageDataset:
        return _open(name, kind, splits, more or {}, get, data_path, is_train)

    dataset(name, num_classes=num_classes, **attributes)(opener)


def _clevr_class(objects: int) -> int:
    return objects - 3  # images show three to ten objects


_TRAIN, _TEST, _VAL, _TRAINVAL = {"train": True}, {"train": False}, {"split": "val"}, {"split": "trainval"}
_PLAIN: dict[str, Any] = {"policy": None, "flip": False}  # a flip or another colour changes their class
_CIFAR: dict[str, Any] = {"image_size": 32, "policy": AutoAugmentPolicy.CIFAR10}


def _grey(mean: float, std: float) -> dict[str, Any]:
    return {"channels": 1, "image_size": 28, "mean": (mean,), "std": (std,), **_PLAIN}


_BALANCED = ({"split": "balanced", "train": True}, {"split": "balanced", "train": False})
_FER = "Put fer2013.csv of Kaggle's facial expression recognition challenge in a folder fer2013 there."
_CARS = "Its publisher has taken it down; torchvision's documentation of StanfordCars says where copies and files go."

# fmt: off
_register("cifar10", datasets.CIFAR10, 10, _TRAIN, _TEST, **_CIFAR,
          mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
_register("cifar100", datasets.CIFAR100, 100, _TRAIN, _TEST, **_CIFAR,
          mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762))
_register("svhn", datasets.SVHN, 10, image_size=32, policy=AutoAugmentPolicy.SVHN, flip=False,
          mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970))
_register("mnist", datasets.MNIST, 10, _TRAIN, _TEST, **_grey(0.1307, 0.3081))
_register("fashion_mnist", datasets.FashionMNIST, 10, _TRAIN, _TEST, **_grey(0.2860, 0.3530))
_register("kmnist", datasets.KMNIST, 10, _TRAIN, _TEST, **_grey(0.1918, 0.3483))
_register("qmnist", datasets.QMNIST, 10, _TRAIN, _TEST, **_grey(0.1307, 0.3081))
_register("emnist", datasets.EMNIST, 47, *_BALANCED, **_grey(0.1751, 0.3332))
_register("usps", datasets.USPS, 10, _TRAIN, _TEST, **_grey(0.2469, 0.2989))
_register("fer2013", datasets.FER2013, 7, get=_FER, channels=1, image_size=48, policy=None,
          mean=(0.5077,), std=(0.2550,))
_register("gtsrb", datasets.GTSRB, 43, **_PLAIN, image_size=32)
_register("stl10", datasets.STL10, 10, image_size=96)
_register("pcam", datasets.PCAM, 2, image_size=96, policy=None)
_register("imagenette", datasets.Imagenette, 10, None, _VAL)
_register("food101", datasets.Food101, 101)
_register("flowers102", datasets.Flowers102, 102)
_register("oxford_iiit_pet", datasets.OxfordIIITPet, 37, _TRAINVAL)
_register("fgvc_aircraft", datasets.FGVCAircraft, 100, _TRAINVAL)
_register("stanford_cars", datasets.StanfordCars, 196, get=_CARS)
_register("dtd", datasets.DTD, 47)
_register("country211", datasets.Country211, 211)
_register("places365", datasets.Places365, 365, {"split": "train-standard"}, _VAL)
_register("inaturalist", datasets.INaturalist, 10000, {"version": "2021_train"}, {"version": "2021_valid"})
_register("clevr", datasets.CLEVRClassification, 8, None, _VAL, **_PLAIN,
          more={"target_transform": _clevr_class})
_register("rendered_sst2", datasets.RenderedSST2, 2, **_PLAIN)
# fmt: on
