"""Sets of scenes are read from the folders that their archives unpack to, and split alike everywhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from PIL import Image

from stitching.config.errors import UserError
from stitching.data.datasets import DATASETS, dataset_info, look_for_dataset, open_dataset

EACH = 10  # images in a class; two of them are held out


def write_classes(folder: Path, names: list[str], image: str = "{name}_{i}.jpg", each: int = EACH) -> None:
    """Class folders of empty files, and an image as the first file of the first class."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            path = folder / name / image.format(name=name.replace("/", "_"), i=i)
            path.parent.mkdir(exist_ok=True)
            path.touch()
    for path in sorted((folder / names[0]).rglob("*.*")):
        Image.new("RGB", (12, 10), (200, 10, 10)).save(path)


def classes(count: int) -> list[str]:
    return [f"class{i:03d}" for i in range(count)]


def labels_and_names(name: str, data_path: Path, train: bool) -> list[tuple[int, str]]:
    return [(label, path.name) for path, label in open_dataset(name, data_path, train).files]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "below", "image"),
    [
        ("resisc45", "NWPU-RESISC45", "{name}_{i}.jpg"),
        ("resisc45", "resisc45/NWPU-RESISC45", "{name}_{i}.jpg"),
        ("resisc45", "resisc45", "{name}_{i}.jpg"),
        ("aid", "AID", "{name}_{i}.jpg"),
        ("ucmerced", "UCMerced_LandUse/Images", "{name}{i}.tif"),
        ("eurosat", "eurosat/2750", "{name}_{i}.jpg"),
        ("eurosat", "eurosat/eurosat/2750", "{name}_{i}.jpg"),
        ("eurosat", "EuroSAT_RGB", "{name}_{i}.jpg"),
    ],
)
def test_class_folders_are_split_by_their_names(tmp_path: Path, name: str, below: str, image: str) -> None:
    names = classes(DATASETS[name].num_classes)
    write_classes(tmp_path / below, names, image)
    (tmp_path / below / names[0] / "Thumbs.db").touch()
    look_for_dataset(name, tmp_path)
    train, test = (labels_and_names(name, tmp_path, train) for train in (True, False))
    assert not set(train) & set(test)
    assert len(train) == 8 * len(names)
    by_hash = sorted(
        (image.format(name="class001", i=i) for i in range(EACH)),
        key=lambda file: hashlib.sha256(f"0/class001/{file}".encode()).hexdigest(),
    )
    assert sorted(by_hash[:2]) == [file for label, file in test if label == 1]
    picture, label = open_dataset(name, tmp_path)[0]
    assert (picture.size, label, picture.mode) == ((12, 10), 0, "RGB")


def test_sun397_numbers_its_classes_as_its_list_does(tmp_path: Path) -> None:
    names = [*(f"a/abbey{i:03d}" for i in range(395)), "c/church/outdoor", "b/bar"]
    write_classes(tmp_path / "SUN397", names, "sun_{i}.jpg", each=5)
    (tmp_path / "SUN397" / "ClassName.txt").write_text("".join(f"/{name}\n" for name in names))
    test = open_dataset("sun397", tmp_path, train=False)
    assert len(test) == 397
    *_, outdoor, bar = test.files  # type: ignore[attr-defined]
    assert outdoor[0].parent == tmp_path / "SUN397" / "c" / "church" / "outdoor"
    assert (outdoor[1], bar[1]) == (395, 396)


def test_fmow_has_a_split_of_its_own(tmp_path: Path) -> None:
    for part, each in (("train", 2), ("val", 1)):
        write_classes(
            tmp_path / "fMoW-rgb" / part, [*classes(62), "false_detection"], "{name}_{i}/{name}_{i}_0_rgb.jpg", each
        )
    multispectral = tmp_path / "fMoW-rgb" / "train" / "class000" / "class000_0" / "class000_0_0_msrgb.jpg"
    multispectral.touch()
    assert len(open_dataset("fmow", tmp_path)) == 124
    assert labels_and_names("fmow", tmp_path, train=False)[61] == (61, "class061_0_0_rgb.jpg")


def test_what_is_missing_is_told_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data set 'aid' in") as error:
        look_for_dataset("aid", tmp_path)
    assert error.value.allowed == "AID/<class>/*.jpg, as AID.zip unpacks"
    write_classes(tmp_path / "AID", classes(3))
    with pytest.raises(UserError, match="AID has 3 class folders; aid has 30"):
        look_for_dataset("aid", tmp_path)
    write_classes(tmp_path / "UCMerced_LandUse" / "Images", classes(21), "{name}{i}.png", each=1)
    with pytest.raises(UserError, match=r"there is no image in .*class000"):
        open_dataset("ucmerced", tmp_path)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("flowers", "flowers102"), ("cars", "stanford_cars"), ("pets", "oxford_iiit_pet"), ("oxford-pets", "oxford_iiit_pet"),
        ("imagenet-1k", "imagenet"), ("fashionmnist", "fashion_mnist"), ("FashionMNIST", "fashion_mnist"),
        ("fgvcaircraft", "fgvc_aircraft"), ("CIFAR-10", "cifar10"), ("EuroSAT", "eurosat"), ("NWPU-RESISC45", "resisc45"),
    ],
)  # fmt: skip
def test_other_spellings(spelling: str, name: str) -> None:
    assert dataset_info(spelling).name == name
