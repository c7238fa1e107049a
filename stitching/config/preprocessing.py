"""The schema of how images become tensors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from stitching.config.bounds import Pixels, Positive
from stitching.config.errors import shortened
from stitching.config.schema import Neutral, Schema, complaint, one_of, square_as_side

__all__ = ["NOT_TESTED", "AugmentationField", "Preprocessing"]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


def _named_transform(value: Any) -> Any:
    """`NAME`, `{NAME: {...}}` or `{transform: NAME, transform_args: {...}}` as `{NAME: {...}}`."""
    if isinstance(value, dict) and "transform" in value and not value.keys() - {"transform", "transform_args"}:
        value = {value["transform"]: value.get("transform_args")}
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or len(value) != 1:
        raise complaint(f"{shortened(value)} is no transform", "its name, or {NAME: {ARGUMENT: VALUE}}")
    ((name, arguments),) = value.items()
    if not isinstance(name, str) or not isinstance(arguments or {}, dict):
        raise complaint(f"{shortened(value)} is no transform", "its name, or {NAME: {ARGUMENT: VALUE}}")
    return {name: arguments or {}}


_TRANSFORM_JSON = {
    "description": "A transform of torchvision.transforms.v2: its name, or {NAME: {ARGUMENT: VALUE}}.",
    "anyOf": [{"type": "string"}, {"type": "object"}],
}
TransformField = Annotated[
    dict[str, dict[str, Any]], BeforeValidator(_named_transform), WithJsonSchema(_TRANSFORM_JSON)
]
AugmentationField: Any = one_of(text=Literal[True, False, "default", "none"], list=list[TransformField])
SidesField: Any = one_of(number=Pixels, list=Annotated[list[Pixels], Field(min_length=2, max_length=2)])
AreaShare = Annotated[float, Field(gt=0, le=1)]


class Preprocessing(Schema):
    """How images become tensors. What is left out is as suits the data set."""

    model_config = {"frozen": True}

    image_size: Annotated[SidesField | None, BeforeValidator(square_as_side)] = None
    """Side of the square that goes into the network, in pixels, or [height, width]; by default the data set's."""
    data_augmentation: Annotated[AugmentationField | None, Neutral("none")] = None
    """`true` or `default`: training images get a flip, the AutoAugment policy of the data set and `train_crop`, those
    of them that it has. Or a list of transforms of torchvision.transforms.v2, by name or as `{NAME: {ARGUMENT:
    VALUE}}`: they come instead of flip and policy. Where they alone make every image `image_size`, nothing is resized
    before them.
    """
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """How images are resized. By default bicubic for sets of big images, bilinear for sets of small ones."""
    crop_pct: Annotated[float, Field(ge=0.01, le=1)] | None = None
    """A test image is resized so that its shorter side is `image_size / crop_pct`, and its centre is cut out. By
    default 0.875 from 96 pixels on; below, it is resized to the square with nothing cut off.
    """
    resize_mode: Literal["crop", "squash", "pad", "nearest", "bilinear", "bicubic"] | None = None
    """How an image gets the size. `crop`: it covers the size, and its centre is cut out as `crop_pct` says; `squash`:
    both sides are resized, and nothing is cut off; `pad`: it fits into the size, with black around it. The name of an
    interpolation is another place for that. By default `crop` from 96 pixels on, `squash` below.
    """
    random_resize_scale: Annotated[list[AreaShare], Field(min_length=2, max_length=2)] | None = None
    """[least, most] share of the area that `train_crop: random_resized` cuts out; by default [0.08, 1]. Alone it asks
    for this crop, also without other augmentation.
    """
    train_crop: Literal["random_resized", "pad", "none"] | None = None
    """Random crop of augmentation. `random_resized`: 8% to 100% of the area (arXiv:1409.4842); `pad`: a shift by up to
    an eighth of the side (arXiv:1512.03385); by default training images are cut as test images are.
    """
    channels: Literal[1, 3] | None = None
    """3 turns grey images into RGB, 1 the other way round; by default the data set's."""
    to_rgb: Annotated[bool | None, Neutral(False)] = None
    """`true`: another word for `channels: 3`."""
    mean: Annotated[list[float], Field(min_length=1)] | None = None
    """Mean of each channel, or one for all of them, after scaling to 0..1; by default the data set's."""
    std: Annotated[list[Positive], Field(min_length=1)] | None = None
    """Standard deviation of each channel, or one for all of them; by default the data set's."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        scale = self.random_resize_scale
        if scale and scale[0] > scale[1]:
            raise complaint(f"random_resize_scale is {scale}", "[least, most]", key="random_resize_scale")
        if scale and self.train_crop not in (None, "random_resized"):
            raise complaint(
                f"random_resize_scale, and train_crop is {self.train_crop}", "train_crop: random_resized",
                key="random_resize_scale",
            )  # fmt: skip
        if self.to_rgb and self.channels == 1:
            raise complaint("to_rgb, and channels is 1", "one of them", key="to_rgb")
        if self.resize_mode in INTERPOLATIONS and self.interpolation not in (None, self.resize_mode):
            raise complaint(
                f"resize_mode is {self.resize_mode}, and interpolation {self.interpolation}", "one of them",
                key="resize_mode",
            )  # fmt: skip
        return self

    @property
    def in_one_spelling(self) -> Preprocessing:
        """The same without keys that are other words for others."""
        changes: dict[str, Any] = {}
        if self.resize_mode in INTERPOLATIONS:
            changes |= {"resize_mode": None, "interpolation": self.resize_mode}
        if self.to_rgb is not None:
            changes |= {"to_rgb": None, "channels": 3 if self.to_rgb else self.channels}
        if self.random_resize_scale and self.train_crop is None:
            changes["train_crop"] = "random_resized"
        if not isinstance(self.data_augmentation, list):
            names = {True: "default", False: "none", None: "none"}
            changes["data_augmentation"] = names.get(self.data_augmentation, self.data_augmentation)
        return self.model_copy(update=changes)

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def is_augmented(self) -> bool:
        """Whether training images get random changes."""
        return self.data_augmentation in (True, "default") or bool(self.listed_transforms)

    @property
    def listed_transforms(self) -> list[dict[str, dict[str, Any]]]:
        """The transforms of training images where they are a list: each one name with its arguments."""
        return self.data_augmentation if isinstance(self.data_augmentation, list) else []

    def with_keys_of(self, other: Preprocessing) -> Preprocessing:
        """The same with the keys that another one was given."""
        own = {name: getattr(other, name) for name in other.model_fields_set}
        return self.model_copy(update=own).in_one_spelling

    def of_tests(self) -> Preprocessing:
        """The same without augmentation: how test images become tensors."""
        return self.model_copy(update=NOT_TESTED)


NOT_TESTED: dict[str, Any] = {"data_augmentation": "none", "train_crop": None, "random_resize_scale": None}
