"""A small image folder, for the tests of this room."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image folder of 2 x 9 training and 2 x 3 test images, all different."""
    root = tmp_path_factory.mktemp("pets")
    values = np.random.default_rng(0)
    for part, each in (("train", 9), ("test", 3)):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for i in range(each):
                noise = values.integers(0, 256, (24, 30, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / part / label / f"{i}.png")
    return root
