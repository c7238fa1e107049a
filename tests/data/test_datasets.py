"""Data sets are found by name; a missing or a wrong one is told in words."""

from __future__ import annotations

import inspect
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from stitching.config.errors import UserError
from stitching.data.datasets import DATASETS, dataset_info, look_for_dataset, open_dataset
from stitching.runs.identity import identity_config
from stitching.runs.kinds import load_job


def write_images(folder: Path, classes: int = 2, each: int = 3, size: tuple[int, int] = (20, 16)) -> None:
    """Class folders with images, every one of another colour."""
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", size, (label * 40, i * 40, 100)).save(folder / f"class{label}" / f"{i}.png")


def write_mnist(raw: Path, images: np.ndarray, labels: np.ndarray, part: str) -> None:
    """The two idx files of one part of MNIST (yann.lecun.com/exdb/mnist: big-endian sizes, then bytes)."""
    raw.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">IIII", 0x00000803, *images.shape)
    (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x00000801, len(labels)) + labels.tobytes())


def test_digits_are_split_once_and_for_all() -> None:
    train, test = open_dataset("digits", train=True), open_dataset("digits", train=False)
    assert (len(train), len(test)) == (1437, 360)
    pictures = {np.asarray(image).tobytes() for image, _ in (train[i] for i in range(len(train)))}
    held_out = [(np.asarray(image), label) for image, label in (test[i] for i in range(len(test)))]
    assert not any(image.tobytes() in pictures for image, _ in held_out)
    assert set(np.bincount([label for _, label in held_out])) <= {35, 36, 37}  # stratified
    again = open_dataset("digits", train=False)
    assert all(np.array_equal(np.asarray(again[i][0]), held_out[i][0]) for i in range(360))
    assert held_out[0][0].dtype == np.uint8
    assert max(image.max() for image, _ in held_out) == 255


@pytest.mark.parametrize("held_out", ["test", "val", "valid"])
@pytest.mark.parametrize("below", ["", "image_folder"])
def test_image_folder(tmp_path: Path, held_out: str, below: str) -> None:
    write_images(tmp_path / below / "train", classes=3)
    write_images(tmp_path / below / held_out, classes=3, each=1)
    (tmp_path / below / "train" / ".ipynb_checkpoints").mkdir()
    assert dataset_info("image_folder", tmp_path).num_classes == 3
    train, test = open_dataset("image_folder", tmp_path), open_dataset("image_folder", tmp_path, train=False)
    assert (len(train), len(test)) == (9, 3)
    image, label = train[8]
    assert (image.size, image.getpixel((0, 0)), label) == ((20, 16), (80, 80, 100), 2)


def test_torchvision_set_in_either_place(tmp_path: Path) -> None:
    images = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    for root in (tmp_path / "own" / "mnist", tmp_path / "shared"):
        write_mnist(root / "MNIST" / "raw", images, np.array([7, 3], dtype=np.uint8), "t10k")
        write_mnist(root / "MNIST" / "raw", images[:1], np.array([5], dtype=np.uint8), "train")
    (tmp_path / "shared" / "mnist").mkdir()  # empty: the other place is looked in, too
    for data_path in (tmp_path / "own", tmp_path / "shared"):
        image, label = open_dataset("mnist", data_path, train=False)[1]
        assert label == 3
        assert np.array_equal(np.asarray(image), images[1])
        assert len(open_dataset("mnist", data_path)) == 1


def test_torchvision_set_that_is_cut_short(tmp_path: Path) -> None:
    raw = tmp_path / "mnist" / "MNIST" / "raw"
    for part in ("train", "t10k"):
        write_mnist(raw, np.zeros((2, 28, 28), dtype=np.uint8), np.zeros(2, dtype=np.uint8), part)
    whole = (raw / "train-images-idx3-ubyte").read_bytes()
    (raw / "train-images-idx3-ubyte").write_bytes(whole[:100])
    with pytest.raises(UserError, match="there is no data set 'mnist'"):
        open_dataset("mnist", tmp_path)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
@pytest.mark.parametrize("train", [True, False])
def test_missing_set_names_the_folder_and_how_to_get_it(tmp_path: Path, name: str, train: bool) -> None:
    with pytest.raises(UserError) as told:
        open_dataset(name, tmp_path, train)
    assert str(tmp_path / name) in told.value.problem
    assert f"ln -s /where/it/is {tmp_path / name}" in (told.value.do or "")


def test_missing_data_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        open_dataset("cifar10", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_download_command_is_one_that_torchvision_takes(tmp_path: Path) -> None:
    others = {"digits", "image_folder", "fer2013", "stanford_cars", "resisc45", "aid", "ucmerced", "fmow"}
    for name in sorted(set(DATASETS) - others):
        with pytest.raises(UserError) as told:
            open_dataset(name, tmp_path)
        command = (told.value.do or "").partition("python -c ")[2]
        imported, root, *calls = shlex.split(command)[0].split("; ")
        kind = getattr(torchvision.datasets, imported.split()[3])
        assert eval(root.partition(" = ")[2]) == str(tmp_path / name)
        parts = []
        for call in calls:
            given = eval(call, {"S": lambda *args, **kwargs: (args, kwargs), "R": "root"})
            bound = inspect.signature(kind).bind(*given[0], **given[1])
            parts.append(str(bound))
        assert len(set(parts)) == len(calls), "the calls must fetch both parts"


def test_unknown_name_offers_the_nearest() -> None:
    for ask in (dataset_info, open_dataset):
        with pytest.raises(UserError, match="did you mean 'imagenet'") as told:
            ask("imagnet")
        assert told.value.path == ("dataset",)


def test_every_entry_is_consistent() -> None:
    for name, info in DATASETS.items():
        assert info.name == name
        assert len(info.mean) == len(info.std) == info.channels
        assert info.num_classes >= 2 or name == "image_folder"


@pytest.mark.parametrize("below", ["", "imagenet"])
def test_imagenet_from_plain_folders(tmp_path: Path, below: str) -> None:
    for part in ("train", "val"):
        for i in range(1000):
            folder = tmp_path / below / part / f"n{i:08d}"
            folder.mkdir(parents=True)
            (folder / "a.JPEG").touch()
    assert len(open_dataset("imagenet", tmp_path)) == 1000
    assert len(open_dataset("imagenet", tmp_path, train=False)) == 1000


def test_part_of_imagenet_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_images(tmp_path / part, classes=10, each=1)
    with pytest.raises(UserError, match="has 10 class folders; imagenet has 1000"):
        open_dataset("imagenet", tmp_path)


def test_flat_validation_folder_is_told(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    (tmp_path / "val").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "ILSVRC2012_val_00000001.png")
    with pytest.raises(UserError, match=r"no class folders in .*val") as told:
        open_dataset("imagenet", tmp_path)
    assert "folder for each class" in (told.value.do or "")


def test_half_a_set_is_told(tmp_path: Path) -> None:
    write_images(tmp_path / "train")
    with pytest.raises(UserError, match=r"there is .*train, but not its counterpart"):
        dataset_info("image_folder", tmp_path)


def test_different_classes_are_told(tmp_path: Path) -> None:
    write_images(tmp_path / "train", classes=2)
    write_images(tmp_path / "test", classes=3)
    with pytest.raises(UserError, match="differ: only one has class2"):
        open_dataset("image_folder", tmp_path)


def test_class_without_images_is_told(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / part)
        (tmp_path / part / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        open_dataset("image_folder", tmp_path)


def test_broken_image_is_named_when_it_is_loaded(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_images(tmp_path / part)
    broken = tmp_path / "train" / "class1" / "0.png"
    whole = broken.read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        broken.write_bytes(content)
        dataset = open_dataset("image_folder", tmp_path)
        with pytest.raises(UserError, match=str(broken)):
            dataset[3]


STRIPES = """
from PIL import Image

from stitching.data.datasets import dataset


@dataset(
    "{name}", num_classes=2, channels=1, image_size=8, mean=(0.5,), std=(0.5,), policy=None,
    how_to_get="Ask the author.", digest=lambda data_path: "version 3",
)
def open_stripes(data_path, train):
    if not (data_path / "stripes.txt").exists():
        raise FileNotFoundError("no stripes.txt")
    return [(Image.new("L", (8, 8), 255 * (i % 2)), i % 2) for i in range(64 if train else 16)]
"""


def test_a_data_set_of_a_plugin_is_used_like_ours(write, small_job) -> None:
    write("sets.py", STRIPES.replace("{name}", "stripes_of_plugin"))
    text = "plugins: [sets.py]\ndata_path: .\n" + small_job.replace("dataset: digits", "dataset: stripes_of_plugin")
    path = write("config.yml", text)
    job = load_job(path)
    assert dataset_info("stripes_of_plugin").num_classes == 2
    with pytest.raises(UserError, match="cannot be opened: no stripes") as told:
        open_dataset("stripes_of_plugin", path.parent)
    assert told.value.do == "Ask the author."
    write("stripes.txt", "")
    assert len(open_dataset("stripes_of_plugin", path.parent)) == 64
    look_for_dataset("stripes_of_plugin", path.parent)
    assert identity_config(job)["stripes_of_plugin"] == "version 3"


def test_a_plugin_cannot_take_the_name_of_one_of_our_data_sets(write, small_job) -> None:
    write("sets.py", STRIPES.replace("{name}", "digits"))
    with pytest.raises(
        UserError, match=r"'digits' is registered twice: by stitching.data.shipped.digits and by .*sets.py"
    ):
        load_job(write("config.yml", "plugins: [sets.py]\n" + small_job))
