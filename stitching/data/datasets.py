"""The registry of data sets: the properties of each, and how its images are opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torchvision.transforms import AutoAugmentPolicy

from stitching.config.dataset_names import canonical_dataset
from stitching.config.errors import UserError, reason_of
from stitching.config.registries import Registry

__all__ = [
    "DATASETS", "DatasetInfo", "ImageDataset", "UnreadableImage", "dataset", "dataset_info", "files_digest",
    "look_for_dataset", "open_dataset",
]  # fmt: skip

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class UnreadableImage(UserError):
    """An image of a data set is broken, whichever run asks for it."""


class ImageDataset(Protocol):
    """Pairs of a PIL image, of any size and mode, and its class: a whole number from 0 up."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]: ...


Opener = Callable[[Path, bool], ImageDataset]


@dataclass(frozen=True)
class DatasetInfo:
    """The properties of a data set, and the defaults of its preprocessing.

    Attributes:
        num_classes: 0 in the registry if the classes must be counted in the files; never 0 from `dataset_info`.
        opener: opens the training (True) or held-out (False) images below a data path.
        image_size: side of the square that images become.
        mean, std: of the values of each channel, after scaling to 0..1.
        policy: AutoAugment's policy for images like these (Cubuk et al., arXiv:1805.09501), None where none fits.
        flip: whether an image and its mirror image are of the same class.
        how_to_get: what to do where the images cannot be opened, in one sentence.
        look: checks that both parts are below a data path, faster than by opening them.
        count_classes: how many classes there are below a data path, where `num_classes` is 0.
        digest: the part of a run's identity for images that the name alone does not determine, such as a digest of
            the names of all files below a data path.
        constant: whether the images depend on the code alone, not on a path or a file that may change; the runs of a
            process then share their tensors.
    """

    name: str
    num_classes: int
    opener: Opener
    channels: int = 3
    image_size: int = 224
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    policy: AutoAugmentPolicy | None = AutoAugmentPolicy.IMAGENET
    flip: bool = True
    how_to_get: str | None = None
    look: Callable[[Path], object] | None = None
    count_classes: Callable[[Path], int] | None = None
    digest: Callable[[Path], str] | None = None
    constant: bool = False


DATASETS: Registry[DatasetInfo] = Registry("dataset", "stitching.data.shipped")


def dataset(name: str, *, num_classes: int, **attributes: Any) -> Callable[[Opener], Opener]:
    """Decorator: register the function that opens the data set `name`.

    The function takes the data path and whether to open the training images, and returns an `ImageDataset`.

    Args:
        attributes: further attributes of `DatasetInfo`.

    Raises:
        UserError: another data set has the name.
    """

    def register(opener: Opener) -> Opener:
        if (ours := canonical_dataset(name)) != name:
            raise UserError(
                f"the data set {name!r} is another spelling of {ours!r}", allowed="a name that is not taken"
            )
        DATASETS.register(name, opener.__module__)(DatasetInfo(name, num_classes, opener, **attributes))
        return opener

    return register


def _entry(name: str) -> DatasetInfo:
    try:
        return DATASETS[canonical_dataset(name)]
    except UserError as error:
        error.path = ("dataset",)
        raise


def dataset_info(name: str, data_path: str | Path | None = None) -> DatasetInfo:
    """The properties of the data set `name`. Its files are read only if its classes must be counted.

    Raises:
        UserError: there is no such data set; or its classes are to be counted and it is missing.
    """
    info = _entry(name)
    if info.num_classes or info.count_classes is None:
        return info
    return replace(info, num_classes=info.count_classes(_folder(data_path)))


def open_dataset(name: str, data_path: str | Path | None = None, train: bool = True) -> ImageDataset:
    """The training or the held-out images of the data set `name`.

    Nothing is ever downloaded.

    Args:
        data_path: the folder that data sets are in (default: data/ in the current folder). A set is looked for in
            `<data_path>/<name>`, then in `data_path` itself. `digits` comes with scikit-learn and needs none.

    Raises:
        UserError: no such data set; or its files are missing or wrong (names the folders looked in and how to get it).
    """
    info = _entry(name)
    try:
        images = info.opener(_folder(data_path), train)
    except UserError:
        raise
    except Exception as error:  # a user's own code may raise anything
        raise UserError(f"the data set {name!r} cannot be opened: {reason_of(error)}", do=info.how_to_get) from None
    if len(images) == 0:
        raise UserError(f"the {'training' if train else 'held-out'} part of {name!r} has no images")
    return images


def look_for_dataset(name: str, data_path: str | Path | None = None) -> None:
    """Make sure that both parts of the data set `name` are there, without listing a million files.

    Raises:
        UserError: as `open_dataset`.
    """
    if look := _entry(name).look:
        look(_folder(data_path))
        return
    for train in (True, False):
        open_dataset(name, data_path, train)


def files_digest(name: str, data_path: str | Path | None = None) -> str | None:
    """The part of a run's identity for images that the data set's name does not determine; None if it does."""
    name = canonical_dataset(name)
    digest = DATASETS[name].digest if name in DATASETS else None
    return digest(_folder(data_path)) if digest else None


def _folder(data_path: str | Path | None) -> Path:
    return Path("data") if data_path is None else Path(data_path).expanduser()
