"""Images become tensors of the size, channels and values that the config asks for, and no setting is lost silently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from stitching.config.errors import UserError
from stitching.config.preprocessing import Preprocessing
from stitching.data.datasets import DATASETS
from stitching.data.transforms import is_random, make_transform


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def transformed(name: str, image: Image.Image, train: bool = False, **settings: object) -> Tensor:
    transform, _ = make_transform(DATASETS[name], Preprocessing(**settings), train)  # type: ignore[arg-type]
    return transform(image)


def steps(name: str, train: bool = True, **settings: object) -> list[type]:
    transform, _ = make_transform(DATASETS[name], Preprocessing(**settings), train)  # type: ignore[arg-type]
    return [type(step) for step in transform.transforms]


@pytest.mark.parametrize("name", sorted(DATASETS))
@pytest.mark.parametrize("augmentation", [None, True])
def test_every_set_gives_its_own_shape(name: str, augmentation: bool | None) -> None:
    info = DATASETS[name]
    tensor = transformed(name, picture(120, 90), True, data_augmentation=augmentation)
    assert tensor.shape == (info.channels, info.image_size, info.image_size)
    assert tensor.dtype == torch.float32
    assert type(tensor) is Tensor


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_mode_becomes_the_channels_asked_for(mode: str, channels: int) -> None:
    for name in ("digits", "cifar10"):
        for train in (True, False):
            tensor = transformed(name, picture(40, 40, mode), train, channels=channels, data_augmentation=True)
            assert tensor.shape == (channels, 32, 32)
            assert tensor.isfinite().all()


def test_values_are_normalised() -> None:
    image = Image.new("RGB", (300, 300), (255, 0, 51))
    tensor = transformed("imagenet", image, mean=[0.5], std=[0.25])
    assert torch.allclose(tensor[:, 0, 0], torch.tensor([2.0, -2.0, -1.2]))
    own = transformed("imagenet", image)
    assert torch.allclose(own[:, 9, 9], torch.tensor([0.515 / 0.229, -0.456 / 0.224, -0.206 / 0.225]))


def test_digits_have_zero_mean_and_unit_variance() -> None:
    dataset = DATASETS["digits"].opener(None, True)  # type: ignore[arg-type]
    own = torch.stack([transformed("digits", dataset[i][0], image_size=8) for i in range(len(dataset))])
    assert abs(own.mean()) < 1e-3
    assert abs(own.std() - 1) < 1e-3


def test_a_big_test_image_loses_its_borders() -> None:
    image = Image.new("L", (512, 256), 0)
    image.paste(255, (160, 16, 352, 240))  # the middle, less than a pixel from the cut at 0.875 = 224 / 256
    seen = transformed("imagenet", image, image_size=224, channels=1, mean=[0.0], std=[1.0])
    assert seen[0, :, 112].min() == 1.0, "the shorter side was cut to 224 of 256 pixels"
    assert (seen[0, 112] > 0.5).sum() == 192, "the longer side kept its scale"
    whole = transformed("imagenet", image, image_size=224, channels=1, mean=[0.0], std=[1.0], crop_pct=1.0)
    assert whole[0, 0, 112] == 0.0


def test_a_small_test_image_keeps_its_borders() -> None:
    image = Image.new("RGB", (32, 32), 0)
    image.putpixel((0, 0), (255, 255, 255))
    assert transformed("cifar10", image, mean=[0.0], std=[1.0])[0, 0, 0] == 1.0
    assert transformed("cifar10", image, mean=[0.0], std=[1.0], crop_pct=0.8)[0, 0, 0] == 0.0


def test_interpolation() -> None:
    image = picture(64, 64)
    made = {mode: transformed("cifar10", image, interpolation=mode) for mode in ("nearest", "bilinear", "bicubic")}
    assert not torch.equal(made["nearest"], made["bilinear"])
    assert not torch.equal(made["bicubic"], made["bilinear"])
    assert torch.equal(transformed("cifar10", image), made["bilinear"])
    assert torch.equal(transformed("imagenet", image), transformed("imagenet", image, interpolation="bicubic"))


@pytest.mark.parametrize("setting", [None, False, "none"])
@pytest.mark.parametrize("name", ["imagenet", "cifar10", "digits"])
def test_without_augmentation_training_images_are_as_test_images(name: str, setting: object) -> None:
    transform, notes = make_transform(DATASETS[name], Preprocessing(data_augmentation=setting), True)  # type: ignore[arg-type]
    assert not is_random(transform)
    assert notes == []
    assert torch.equal(transform(picture(50, 40)), transformed(name, picture(50, 40)))


def test_augmentation_is_flip_and_policy_and_the_crop_that_is_asked_for() -> None:
    crops = {v2.RandomResizedCrop, v2.RandomCrop, v2.RandomHorizontalFlip, v2.AutoAugment}

    def random_steps(name: str, **settings: object) -> set[type]:
        return set(steps(name, data_augmentation="default", **settings)) & crops

    assert random_steps("imagenet") == random_steps("cifar10") == {v2.RandomHorizontalFlip, v2.AutoAugment}
    assert random_steps("svhn") == {v2.AutoAugment}, "a mirrored house number is another one"
    assert random_steps("cifar10", train_crop="none") == random_steps("cifar10")
    assert random_steps("cifar10", train_crop="pad") == random_steps("cifar10") | {v2.RandomCrop}
    assert random_steps("imagenet", train_crop="random_resized") == random_steps("imagenet") | {v2.RandomResizedCrop}
    assert random_steps("digits", train_crop="pad") == {v2.RandomCrop}
    assert not set(steps("imagenet", train=False, data_augmentation=True)) & crops


def test_each_set_has_the_policy_that_was_learned_for_it() -> None:
    policies = {name: info.policy and info.policy.name for name, info in DATASETS.items()}
    assert policies["imagenet"] == "IMAGENET"
    assert policies["cifar10"] == policies["cifar100"] == "CIFAR10"
    assert policies["svhn"] == "SVHN"
    assert policies["digits"] is policies["mnist"] is None


def test_padded_crop_shifts_by_an_eighth() -> None:
    image = Image.new("L", (32, 32), 255)
    settings = {"data_augmentation": True, "train_crop": "pad", "mean": [0.0], "std": [1.0]}
    borders = [int((transformed("digits", image, True, **settings)[0] == 0).any(dim=1).sum()) for _ in range(50)]
    dark_rows = [int((transformed("digits", image, True, **settings)[0, :, 16] == 0).sum()) for _ in range(200)]
    assert max(dark_rows) == 4
    assert any(borders)


def test_ignored_settings_are_told() -> None:
    def notes(name: str, train: bool = True, **settings: object) -> list[str]:
        return make_transform(DATASETS[name], Preprocessing(**settings), train)[1]  # type: ignore[arg-type]

    assert "data_augmentation is ignored: digits" in notes("digits", data_augmentation=True)[0]
    assert notes("digits", train=False, data_augmentation=True) == [], "said once, with the training images"
    assert "train_crop: pad is ignored" in notes("cifar10", train_crop="pad")[0]
    assert notes("cifar10", data_augmentation=True, train_crop="pad") == []


@pytest.mark.parametrize("settings", [{"mean": [0.5, 0.5]}, {"std": [0.5, 0.5, 0.5], "channels": 1}])
def test_wrong_settings_are_told(settings: dict[str, object]) -> None:
    with pytest.raises(UserError) as told:
        make_transform(DATASETS["cifar10"], Preprocessing(**settings), True)  # type: ignore[arg-type]
    assert told.value.path == (next(iter(settings)),)


@pytest.mark.parametrize(("mode", "corner", "edge"), [("crop", 1.0, 1.0), ("squash", 0.0, 0.0), ("pad", 0.0, 0.0)])
def test_an_image_gets_a_size_of_two_sides(mode: str, corner: float, edge: float) -> None:
    """A white map with black ends, twice as wide as it is high: cut off, squeezed in, or with black around it."""
    image = Image.new("L", (512, 256), 0)
    image.paste(255, (128, 0, 384, 256))
    settings = {"channels": 1, "mean": [0.0], "std": [1.0], "image_size": [64, 32], "resize_mode": mode}
    seen = transformed("imagenet", image, crop_pct=1.0 if mode == "crop" else None, **settings)
    assert seen.shape == (1, 64, 32)
    assert (seen[0, 0, 0].item(), seen[0, 32, 0].item()) == (corner, edge)
    white = (seen[0] > 0.5).float()
    assert white[32].mean() == (1.0 if mode == "crop" else 0.5)
    assert white[:, 16].mean() == (0.25 if mode == "pad" else 1.0)


def test_older_words_of_the_preprocessing_are_other_ones() -> None:
    image = picture(120, 90)
    for older, newer in [
        ({"image_size": [32, 32]}, {"image_size": 32}),
        ({"resize_mode": "nearest"}, {"interpolation": "nearest"}),
        ({"to_rgb": True}, {"channels": 3}),
        ({"to_rgb": False}, {}),
    ]:
        assert Preprocessing(**older).in_one_spelling == Preprocessing(**newer).in_one_spelling  # type: ignore[arg-type]
        assert torch.equal(transformed("digits", image, **older), transformed("digits", image, **newer))
    assert transformed("digits", image, to_rgb=True).shape == (3, 32, 32)


def test_the_scale_of_the_random_crop() -> None:
    """It is a crop by itself, for training images only; the least share of the area decides what may be lost."""
    image = Image.new("L", (64, 64), 255)
    image.paste(0, (24, 24, 40, 40))  # a sixteenth of the area
    settings = {"random_resize_scale": [0.9, 1.0], "mean": [0.0], "std": [1.0]}
    dark = [float((transformed("digits", image, True, **settings) < 0.5).float().mean()) for _ in range(20)]
    assert len(set(dark)) > 1
    assert 0.05 < min(dark) <= max(dark) < 0.09
    assert v2.RandomResizedCrop not in steps("digits", train=False, **settings)
    assert Preprocessing(**settings).of_tests().random_resize_scale is None  # type: ignore[arg-type]


def test_listed_transforms_replace_flip_and_policy() -> None:
    listed = ["RandomHorizontalFlip", {"RandAugment": {"num_ops": 1, "interpolation": "bilinear"}}]
    assert not {v2.RandomHorizontalFlip, v2.AutoAugment} & set(steps("imagenet", data_augmentation=listed))
    flip = transformed(
        "digits", Image.linear_gradient("L").rotate(90), True, data_augmentation=[{"RandomHorizontalFlip": {"p": 1.0}}]
    )
    plain = transformed("digits", Image.linear_gradient("L").rotate(90))
    assert torch.equal(flip, plain.flip(2))
    assert not torch.equal(flip, plain)
    transform, notes = make_transform(DATASETS["digits"], Preprocessing(data_augmentation=listed), True)  # type: ignore[arg-type]
    assert is_random(transform)
    assert notes == []
    assert not is_random(make_transform(DATASETS["digits"], Preprocessing(data_augmentation=listed), False)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("listed", "is_resized"),
    [
        (["TrivialAugmentWide"], True),
        ([{"RandomCrop": {"size": 16, "padding": 2}}], True),
        ([{"RandomResizedCrop": {"size": 16}}], False),
        ([{"transform": "RandomResizedCrop", "transform_args": {"size": 16}}], False),
        ([{"Resize": {"size": [20, 20]}}, {"RandomCrop": {"size": 16}}, "ToImage"], False),
        (["GaussianNoise", "RandomErasing", "RandomGrayscale"], True),
        ([{"RandomApply": {"transforms": [{"ColorJitter": {"brightness": 0.5}}], "p": 1.0}}], True),
        ([{"AutoAugment": {"policy": "cifar10"}}, {"Grayscale": {"num_output_channels": 1}}], True),
    ],
    ids=lambda value: str(value)[:30],
)
def test_lists_that_set_the_size_get_the_whole_image(listed: list, is_resized: bool) -> None:
    settings = {"data_augmentation": listed, "image_size": 16}
    for name, channels in (("cifar10", 3), ("digits", 1)):
        assert transformed(name, picture(50, 40), True, **settings).shape == (channels, 16, 16)
    assert (v2.Resize in steps("cifar10", **settings)) == is_resized
