"""The digits that come with scikit-learn."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from stitching.data.datasets import ImageDataset, dataset


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


_digits = lru_cache(_Digits)


@dataset(
    "digits", num_classes=10, channels=1, image_size=32, mean=(0.3053,), std=(0.3760,), policy=None, flip=False,
    constant=True,
)  # fmt: skip
def _open_digits(data_path: Path, train: bool) -> ImageDataset:
    return _digits(train)
