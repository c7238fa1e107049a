"""ImageNet and a user's own images: folders with a folder of images for each class.

ImageNet is `<data_path>/imagenet/{train,val}` or `<data_path>/{train,val}`, with a folder for each of the 1000 classes
in both. That is how clusters keep it and also what `torchvision.datasets.ImageNet` unpacks; the archives and the devkit
are not needed. Classes are numbered in the order of their WordNet ids, as in every published network.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image
from torchvision import datasets
from torchvision.datasets.folder import IMG_EXTENSIONS

from stitching.config.errors import UserError
from stitching.data.datasets import ImageDataset, UnreadableImage, dataset
from stitching.data.shipped.torchvision_sets import python_command

__all__ = ["class_names", "read_image"]

_HELD_OUT = {"imagenet": ("val",), "image_folder": ("test", "val", "valid")}
_CLASSES = {"imagenet": 1000}


class _ClassFolders(datasets.ImageFolder):
    """ImageFolder that names broken files, and does not take `.ipynb_checkpoints` for a class."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, loader=read_image)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        names = class_names(Path(directory))
        return names, {name: i for i, name in enumerate(names)}


def read_image(path: str | Path) -> Image.Image:
    """The image in a file, as RGB. Raises `UnreadableImage` if it is damaged."""
    try:
        with Path(path).open("rb") as file:
            return Image.open(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises, by format
        raise UnreadableImage(
            f"the image {path} cannot be read ({error})", do="Replace the file, or remove it from the data set."
        ) from error


def class_names(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, hidden ones left out."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _class_folders(name: str, data_path: Path, held_out: tuple[str, ...]) -> tuple[Path, Path]:
    """The folders of the training and of the held-out images, which have the same classes."""
    layout = f"train/<class>/*.jpg and {' or '.join(held_out)}/<class>/*.jpg"
    roots = (data_path / name, data_path)
    pairs = [(root / "train", root / test) for root in roots for test in held_out]
    folders = next(((train, test) for train, test in pairs if train.is_dir() and test.is_dir()), None)
    if folders is None:
        one_part = next((folder for pair in pairs for folder in pair if folder.is_dir()), None)
        raise UserError(
            f"there is no data set {name!r} in {roots[0]} or in {data_path}"
            + (f": there is {one_part}, but not its counterpart" if one_part else ""),
            allowed=layout,
            do=f"Set data_path, or make a symbolic link: ln -s /where/it/is {roots[0]}"
            + (
                "\n  Archives are unpacked by: "
                f"{python_command(datasets.ImageNet, roots[0], {'split': 'train'}, {'split': 'val'}, download=False)}"
                if name == "imagenet"
                else ""
            ),
        )
    names = [class_names(folder) for folder in folders]
    for folder, classes in zip(folders, names, strict=True):
        if not classes:
            raise UserError(
                f"there are no class folders in {folder}",
                allowed=layout,
                do="Sort the images into a folder for each class.",
            )
    if names[0] != names[1]:
        unmatched = sorted(set(names[0]) ^ set(names[1]))
        raise UserError(
            f"the class folders of {folders[0]} and {folders[1]} differ: only one has "
            + ", ".join(unmatched[:5])
            + (f" and {len(unmatched) - 5} others" if len(unmatched) > 5 else "")
        )
    return folders


def _checked_folders(name: str, data_path: Path) -> tuple[Path, Path]:
    """The folders of the training and of the held-out images, with as many classes as the data set has."""
    folders = _class_folders(name, data_path, _HELD_OUT[name])
    expected, count = _CLASSES.get(name), len(class_names(folders[0]))
    if expected and count != expected:  # its labels would not be those that published networks were trained with
        raise UserError(
            f"{folders[0]} has {count} class folders; {name} has {expected}",
            do="Use `dataset: image_folder` for a part of it.",
        )
    return folders


def _open_folders(name: str, data_path: Path, train: bool) -> ImageDataset:
    folder = _checked_folders(name, data_path)[0 if train else 1]
    try:
        return _ClassFolders(folder)
    except FileNotFoundError as error:  # a class folder without an image
        raise UserError(f"in {folder}: {error}", allowed=f"files named {', '.join(IMG_EXTENSIONS)}") from error


def _count_classes(data_path: Path) -> int:
    train, _ = _class_folders("image_folder", data_path, _HELD_OUT["image_folder"])
    return len(class_names(train))


@lru_cache(maxsize=16)
def _names_below(data_path: Path) -> str:
    """SHA-256 of the names of all files of an `image_folder`, in hexadecimal."""
    digest = hashlib.sha256()
    for root in (data_path / "image_folder", data_path):
        for split in ("train", *_HELD_OUT["image_folder"]):
            for folder, subfolders, files in os.walk(root / split):
                subfolders.sort()
                digest.update(json.dumps([os.path.relpath(folder, root), sorted(files)]).encode())
    return digest.hexdigest()


@dataset("imagenet", num_classes=_CLASSES["imagenet"], look=partial(_checked_folders, "imagenet"))
def _open_imagenet(data_path: Path, train: bool) -> ImageDataset:
    return _open_folders("imagenet", data_path, train)


@dataset(
    "image_folder", num_classes=0, count_classes=_count_classes, digest=_names_below,
    look=partial(_checked_folders, "image_folder"),
)  # fmt: skip
def _open_image_folder(data_path: Path, train: bool) -> ImageDataset:
    return _open_folders("image_folder", data_path, train)
