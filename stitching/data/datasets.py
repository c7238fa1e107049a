"""Every data set by name: what is known of it without looking, and how its files are found and opened."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import AutoAugmentPolicy

from stitching.config.errors import UserError, unknown_name

__all__ = [
    "DATASETS", "DatasetInfo", "ImageDataset", "UnreadableImage", "dataset_info", "imagenet_folder_names",
    "look_for_dataset", "open_dataset",
]  # fmt: skip

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class UnreadableImage(UserError):
    """An image of a data set is broken, whichever run asks for it."""


class ImageDataset(Protocol):
    """Pairs of a PIL image, of any size and mode, and its class: a whole number from 0 up."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set, and so what preprocessing does where a config is silent.

    Attributes:
        num_classes: 0 in `DATASETS` where it takes a look at the files; never 0 from `dataset_info`.
        loader: opens the training (True) or held-out (False) images below a data path.
        image_size: side of the square that images become.
        mean, std: of the values of each channel, after scaling to 0..1.
        policy: AutoAugment's policy for images like these (Cubuk et al., arXiv:1805.09501), None where none fits.
        flip: whether an image and its mirror image are of the same class.
    """

    name: str
    num_classes: int
    loader: Callable[[Path, bool], ImageDataset]
    channels: int = 3
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    policy: AutoAugmentPolicy | None = AutoAugmentPolicy.IMAGENET
    flip: bool = True


def dataset_info(name: str, data_path: str | Path | None = None) -> DatasetInfo:
    """What is known of the data set `name`. Only `image_folder` is looked for below `data_path`, to count its classes.

    Raises:
        UserError: there is no such data set; or it is an `image_folder` that is missing.
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS, path=("dataset",))
    info = DATASETS[name]
    if info.num_classes:
        return info
    train, _ = _class_folders(name, _folder(data_path), _HELD_OUT[name])
    return replace(info, num_classes=len(_class_names(train)))


def open_dataset(name: str, data_path: str | Path | None = None, train: bool = True) -> ImageDataset:
    """The training or the held-out images of the data set `name`.

    Nothing is ever downloaded.

    Args:
        data_path: the folder that data sets are in (default: data/ in the current folder). A set is looked for in
            `<data_path>/<name>`, then in `data_path` itself. `digits` comes with scikit-learn and needs none.

    Raises:
        UserError: no such data set; or its files are missing or wrong (names the folders looked in and how to get it).
    """
    if name not in DATASETS:
        raise unknown_name("dataset", name, DATASETS, path=("dataset",))
    dataset = DATASETS[name].loader(_folder(data_path), train)
    if len(dataset) == 0:
        raise UserError(f"the {'training' if train else 'held-out'} part of {name!r} has no images")
    return dataset


def look_for_dataset(name: str, data_path: str | Path | None = None) -> None:
    """Make sure that both parts of the data set `name` are there, without listing a million files.

    Raises:
        UserError: as `open_dataset`.
    """
    if name in _HELD_OUT:
        _checked_folders(name, _folder(data_path))
        return
    for train in (True, False):
        open_dataset(name, data_path, train)


def imagenet_folder_names(data_path: str | Path) -> tuple[Path, Path]:
    """The folders of ImageNet's training and validation images.

    They are `<data_path>/imagenet/{train,val}` or `<data_path>/{train,val}`, with a folder for each of the 1000 classes
    in both. That is how clusters keep it and also what `torchvision.datasets.ImageNet` unpacks; the archives and the
    devkit are not needed. Classes are numbered in the order of their WordNet ids, as in every published network.
    """
    return _class_folders("imagenet", Path(data_path), _HELD_OUT["imagenet"])


def _folder(data_path: str | Path | None) -> Path:
    return Path("data") if data_path is None else Path(data_path).expanduser()


# ------------------------------------------------------------------------------------------------- folders of images

_HELD_OUT = {"imagenet": ("val",), "image_folder": ("test", "val", "valid")}


class _ClassFolders(datasets.ImageFolder):
    """ImageFolder that tells about broken files, and does not take `.ipynb_checkpoints` for a class."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, loader=_read_image)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = _class_names(Path(directory))
        return names, {name: i for i, name in enumerate(names)}


def _read_image(path: str) -> Image.Image:
    try:
        with Path(path).open("rb") as file:
            return Image.open(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises, by format
        raise UnreadableImage(
            f"the image {path} cannot be read ({error})", do="Replace the file, or remove it from the data set."
        ) from error


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(name: str, data_path: Path, held_out: tuple[str, ...]) -> tuple[Path, Path]:
    """The folders of the training and of the held-out images, which have the same classes."""
    layout = f"train/<class>/*.jpg and {' or '.join(held_out)}/<class>/*.jpg"
    roots = (data_path / name, data_path)
    pairs = [(root / "train", root / test) for root in roots for test in held_out]
    found = next(((train, test) for train, test in pairs if train.is_dir() and test.is_dir()), None)
    if found is None:
        half = next((folder for pair in pairs for folder in pair if folder.is_dir()), None)
        raise UserError(
            f"there is no data set {name!r} in {roots[0]} or in {data_path}"
            + (f": there is {half}, but not its counterpart" if half else ""),
            allowed=layout,
            do=f"Set data_path, or make a symbolic link: ln -s /where/it/is {roots[0]}"
            + (
                "\n  Archives are unpacked by: "
                f"{_python(datasets.ImageNet, roots[0], {'split': 'train'}, {'split': 'val'}, download=False)}"
                if name == "imagenet"
                else ""
            ),
        )
    names = [_class_names(folder) for folder in found]
    for folder, classes in zip(found, names, strict=True):
        if not classes:
            raise UserError(
                f"there are no class folders in {folder}",
                allowed=layout,
                do="Sort the images into a folder for each class.",
            )
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        raise UserError(
            f"the class folders of {found[0]} and {found[1]} differ: only one has "
            + ", ".join(odd[:5])
            + (f" and {len(odd) - 5} others" if len(odd) > 5 else "")
        )
    return found


def _checked_folders(name: str, data_path: Path) -> tuple[Path, Path]:
    """The folders of the training and of the held-out images, with as many classes as the data set has."""
    found = _class_folders(name, data_path, _HELD_OUT[name])
    wanted, count = DATASETS[name].num_classes, len(_class_names(found[0]))
    if wanted and count != wanted:  # its labels would not be those that published networks were trained with
        raise UserError(
            f"{found[0]} has {count} class folders; {name} has {wanted}",
            do="Use `dataset: image_folder` for a part of it.",
        )
    return found


def _open_folders(name: str, data_path: Path, train: bool) -> ImageDataset:
    folder = _checked_folders(name, data_path)[0 if train else 1]
    try:
        return _ClassFolders(folder)
    except FileNotFoundError as error:  # a class folder without an image
        raise UserError(f"in {folder}: {error}", allowed=f"files named {', '.join(IMG_EXTENSIONS)}") from error


# --------------------------------------------------------------------------------------------------------- digits


class _Digits:
    """scikit-learn's digits: 8x8 grey images, 1437 to train with and 360 held out, the same whatever a run's seed."""

    def __init__(self, train: bool) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        split = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
        chosen = split[0 if train else 1]
        grey = np.round(images[chosen] * (255 / 16)).astype(np.uint8)  # the set's own values are 0..16
        self.images, self.labels = grey.reshape(-1, 8, 8), labels[chosen]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), int(self.labels[index])


def _open_digits(data_path: Path, train: bool) -> ImageDataset:
    return _Digits(train)


# -------------------------------------------------------------------------------------------- torchvision's own sets

_WRONG_FILES = (RuntimeError, OSError, ValueError, AssertionError, EOFError, pickle.UnpicklingError)


def _open_torchvision(
    name: str, kind: Callable[..., Any], splits: tuple[dict[str, Any], dict[str, Any]], more: dict[str, Any],
    get: str | None, data_path: Path, train: bool,
) -> ImageDataset:  # fmt: skip
    own = data_path / name
    complaint: Exception | None = None
    for root in (own, data_path):
        if not root.is_dir():
            continue
        try:
            return kind(root, **splits[0 if train else 1], **more)
        except _WRONG_FILES as error:  # each set has its own exception for files that are missing or broken
            complaint = complaint or error
    # torchvision's own hint is left out: its download=True is nothing that a config can say
    words = " ".join(str(complaint).split()).partition(" You can ")[0]
    reason = f" ({words})" if complaint else f": there is no folder {data_path}"
    get = get or f"With internet: {_python(kind, own, *splits)}"
    raise UserError(
        f"there is no data set {name!r} in {own} or in {data_path}{reason}",
        do=f"Set data_path, or make a symbolic link: ln -s /where/it/is {own}\n  {get}",
    )


def _python(kind: Any, root: Path, *splits: Mapping[str, Any], download: bool = True) -> str:
    more = ", download=True" if download else ""
    calls = (", ".join(f"{key}={value!r}" for key, value in split.items()) for split in splits)
    made = "; ".join(f"S(R, {call}{more})" for call in calls)
    return f'python -c "from torchvision.datasets import {kind.__name__} as S; R = {str(root)!r}; {made}"'


def _torchvision(
    name: str,
    kind: Callable[..., Any],
    num_classes: int,
    train: dict[str, Any] | None = None,
    test: dict[str, Any] | None = None,
    *,
    more: dict[str, Any] | None = None,
    get: str | None = None,
    **looks: Any,
) -> DatasetInfo:
    """One line of the table: `train` and `test` are what the class takes for the two splits; `more` for both."""
    splits = (train or {"split": "train"}, test or {"split": "test"})
    loader = partial(_open_torchvision, name, kind, splits, more or {}, get)
    return DatasetInfo(name, num_classes, loader, **looks)


def _clevr_class(objects: int) -> int:
    return objects - 3  # images show three to ten objects


_TRAIN, _TEST, _VAL, _TRAINVAL = {"train": True}, {"train": False}, {"split": "val"}, {"split": "trainval"}
_PLAIN: dict[str, Any] = {"policy": None, "flip": False}  # what is on them changes with a flip or another colour
_CIFAR: dict[str, Any] = {"image_size": 32, "policy": AutoAugmentPolicy.CIFAR10}


def _grey(mean: float, std: float, size: int = 28) -> dict[str, Any]:
    return {"channels": 1, "image_size": size, "mean": (mean,), "std": (std,), **_PLAIN}


_BALANCED = ({"split": "balanced", "train": True}, {"split": "balanced", "train": False})
_FER = "Put fer2013.csv of Kaggle's facial expression recognition challenge in a folder fer2013 there."
_CARS = "Its publisher has taken it down; torchvision's documentation of StanfordCars says where copies and files go."

_ALL = (
    DatasetInfo("digits", 10, _open_digits, **_grey(0.3053, 0.3760, 32)),
    DatasetInfo("imagenet", 1000, partial(_open_folders, "imagenet")),
    DatasetInfo("image_folder", 0, partial(_open_folders, "image_folder")),
    _torchvision("cifar10", datasets.CIFAR10, 10, _TRAIN, _TEST, **_CIFAR,
                 mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    _torchvision("cifar100", datasets.CIFAR100, 100, _TRAIN, _TEST, **_CIFAR,
                 mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
    _torchvision("svhn", datasets.SVHN, 10, image_size=32, policy=AutoAugmentPolicy.SVHN, flip=False,
                 mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)),
    _torchvision("mnist", datasets.MNIST, 10, _TRAIN, _TEST, **_grey(0.1307, 0.3081)),
    _torchvision("fashion_mnist", datasets.FashionMNIST, 10, _TRAIN, _TEST, **_grey(0.2860, 0.3530)),
    _torchvision("kmnist", datasets.KMNIST, 10, _TRAIN, _TEST, **_grey(0.1918, 0.3483)),
    _torchvision("qmnist", datasets.QMNIST, 10, _TRAIN, _TEST, **_grey(0.1307, 0.3081)),
    _torchvision("emnist", datasets.EMNIST, 47, *_BALANCED, **_grey(0.1751, 0.3332)),
    _torchvision("usps", datasets.USPS, 10, _TRAIN, _TEST, **_grey(0.2469, 0.2989)),
    _torchvision("fer2013", datasets.FER2013, 7, get=_FER, channels=1, image_size=48, policy=None,
                 mean=(0.5077,), std=(0.2550,)),
    _torchvision("gtsrb", datasets.GTSRB, 43, **_PLAIN, image_size=32),
    _torchvision("stl10", datasets.STL10, 10, image_size=96),
    _torchvision("pcam", datasets.PCAM, 2, image_size=96, policy=None),
    _torchvision("imagenette", datasets.Imagenette, 10, None, _VAL),
    _torchvision("food101", datasets.Food101, 101),
    _torchvision("flowers102", datasets.Flowers102, 102),
    _torchvision("oxford_iiit_pet", datasets.OxfordIIITPet, 37, _TRAINVAL),
    _torchvision("fgvc_aircraft", datasets.FGVCAircraft, 100, _TRAINVAL),
    _torchvision("stanford_cars", datasets.StanfordCars, 196, get=_CARS),
    _torchvision("dtd", datasets.DTD, 47),
    _torchvision("country211", datasets.Country211, 211),
    _torchvision("places365", datasets.Places365, 365, {"split": "train-standard"}, _VAL),
    _torchvision("inaturalist", datasets.INaturalist, 10000, {"version": "2021_train"}, {"version": "2021_valid"}),
    _torchvision("clevr", datasets.CLEVRClassification, 8, None, _VAL, **_PLAIN,
                 more={"target_transform": _clevr_class}),
    _torchvision("rendered_sst2", datasets.RenderedSST2, 2, **_PLAIN),
)  # fmt: skip

DATASETS: dict[str, DatasetInfo] = {info.name: info for info in _ALL}
