"""What published sweeps did where their files say nothing."""

from __future__ import annotations

from typing import Any

__all__ = ["with_published_defaults"]

_OPTIMIZER = "Adam"
_IMAGES = {"resize_mode": "squash", "train_crop": "random_resized", "random_resize_scale": [0.9, 1.0]}


def with_published_defaults(data: Any) -> Any:
    """The keys of a job, as its file has them, with those added that published training had and the file leaves out.

    Test images are resized to the square with nothing cut off; of training images 90% to 100% of the area are cut out.
    """
    if not isinstance(data, dict) or data.get("published") is not True:
        return data
    training = data.get("train_config")
    if not isinstance(training, dict):  # reported by the schema
        return data
    images = training.get("data_preprocessing") or {}
    if not isinstance(images, dict):
        return data
    defaults: dict[str, Any] = dict(_IMAGES)
    if images.get("crop_pct") is not None:
        del defaults["resize_mode"]
    is_off = any(keys.get("data_augmentation") in (False, "none") for keys in (training, images))
    if is_off or images.get("train_crop") not in (None, "random_resized"):
        del defaults["train_crop"], defaults["random_resize_scale"]
    images = defaults | {key: value for key, value in images.items() if value is not None}
    optimizer = training.get("optimizer") or _OPTIMIZER
    return {**data, "train_config": {**training, "optimizer": optimizer, "data_preprocessing": images}}
