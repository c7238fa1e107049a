"""Scenes from above and from the ground: class folders, of which most are published without a split.

Where there is no split, a fifth of every class is held out: the images whose SHA-256 of `0/<class>/<file name>` is
smallest. That depends on names alone, so it is the same on every machine and whatever a run's seed (0 is the split's).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torchvision import datasets

from stitching.config.errors import UserError
from stitching.data.datasets import ImageDataset, dataset
from stitching.data.shipped.class_folders import class_names, read_image
from stitching.data.shipped.torchvision_sets import python_command

HELD_OUT = 5  # one image in so many of each class
_SPLIT_SEED = 0


class _ImageFiles:
    """Image files with their classes."""

    def __init__(self, files: list[tuple[Path, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int, /) -> tuple[Image.Image, int]:
        path, label = self.files[index]
        return read_image(path), label


@dataclass(frozen=True)
class _Published:
    """How a data set is published.

    Attributes:
        name, num_classes: of the data set.
        folders: where its class folders are, below `<data_path>/<name>` or `data_path`: any of these.
        layout: what is in such a folder, for messages.
        ending: of the names of its images.
        classes_in: the class folders of one of `folders`, in the order of their numbers.
        parts: the folders of the training and the held-out images, if it has a split of its own.
        command: the class of torchvision that downloads it.
        image_size: as of `DatasetInfo`.
    """

    name: str
    num_classes: int
    folders: tuple[str, ...]
    layout: str
    ending: str
    classes_in: Callable[[Path], list[str]] = class_names
    parts: tuple[str, str] | None = None
    command: Callable[..., object] | None = None
    image_size: int = 224

    def open(self, data_path: Path, train: bool) -> ImageDataset:
        part, classes = self._part(data_path, train)
        files = [(path, label) for label, name in enumerate(classes) for path in self._images(part, name, train)]
        return _ImageFiles(files)

    def look(self, data_path: Path) -> None:
        for train in (True, False):
            self._part(data_path, train)

    def _part(self, data_path: Path, train: bool) -> tuple[Path, list[str]]:
        """The folder with the class folders of one part, and their names."""
        part = self._folder(data_path) / (self.parts[0 if train else 1] if self.parts else "")
        classes = self.classes_in(part) if part.is_dir() else []
        if len(classes) != self.num_classes:
            raise UserError(
                f"{part} has {len(classes)} class folders; {self.name} has {self.num_classes}", allowed=self.layout,
                do="Unpack the whole data set, or use `dataset: image_folder` for a part of it.",
            )  # fmt: skip
        return part, classes

    def _folder(self, data_path: Path) -> Path:
        """The folder that the archive unpacks to, or whose content was moved up."""
        own = data_path / self.name
        paths = [root / below for root in (own, data_path) for below in self.folders]
        if own.is_dir() and any(path.is_dir() for path in own.iterdir()):
            paths.append(own)
        if folder := next(filter(Path.is_dir, paths), None):
            return folder
        get = f"\n  With internet: {python_command(self.command, own, {})}" if self.command else ""
        raise UserError(
            f"there is no data set {self.name!r} in {own} or in {data_path}", allowed=self.layout,
            do=f"Set data_path, or make a symbolic link: ln -s /where/it/is {own}{get}",
        )  # fmt: skip

    def _images(self, part: Path, class_folder: str, train: bool) -> list[Path]:
        images = sorted(path for path in _files_below(part / class_folder) if path.name.lower().endswith(self.ending))
        if not images:
            raise UserError(f"there is no image in {part / class_folder}", allowed=self.layout)
        if self.parts:
            return images
        in_order = sorted(images, key=lambda path: _digest(f"{_SPLIT_SEED}/{class_folder}/{path.name}"))
        held_out = set(in_order[: max(1, round(len(images) / HELD_OUT))])
        return [path for path in images if (path in held_out) != train]


def _files_below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _classes_of_sun(folder: Path) -> list[str]:
    """SUN397's classes, some of them two folders deep, as it lists them in ClassName.txt: `/a/abbey`."""
    try:
        lines = (folder / "ClassName.txt").read_text(encoding="utf-8").split()
    except OSError:
        return []
    return [line.strip("/") for line in lines]


def _classes_of_fmow(folder: Path) -> list[str]:
    return [name for name in class_names(folder) if name != "false_detection"]  # which is no class of the training


_SETS = [
    _Published(
        "resisc45", 45, ("NWPU-RESISC45",),
        "NWPU-RESISC45/<class>/*.jpg, as the archive NWPU-RESISC45.rar unpacks", ".jpg",
    ),
    _Published(
        "eurosat", 10, ("eurosat/2750", "2750", "EuroSAT_RGB"),
        "2750/<class>/*.jpg, as EuroSAT.zip unpacks, or EuroSAT_RGB/<class>/*.jpg", ".jpg",
        command=datasets.EuroSAT, image_size=64,
    ),
    _Published("aid", 30, ("AID",), "AID/<class>/*.jpg, as AID.zip unpacks", ".jpg"),
    _Published(
        "ucmerced", 21, ("UCMerced_LandUse/Images",),
        "UCMerced_LandUse/Images/<class>/*.tif, as UCMerced_LandUse.zip unpacks", ".tif",
    ),
    _Published(
        "sun397", 397, ("SUN397",),
        "SUN397/ClassName.txt and SUN397/<letter>/<class>/sun_*.jpg, as SUN397.tar.gz unpacks", ".jpg",
        classes_in=_classes_of_sun, command=datasets.SUN397,
    ),
    _Published(
        "fmow", 62, ("fMoW-rgb", "fmow-rgb"),
        "fMoW-rgb/{train,val}/<class>/<class>_<number>/*_rgb.jpg, as fMoW-rgb is published", "_rgb.jpg",
        classes_in=_classes_of_fmow, parts=("train", "val"),
    ),
]  # fmt: skip

for _set in _SETS:
    dataset(_set.name, num_classes=_set.num_classes, image_size=_set.image_size, look=_set.look)(_set.open)
