"""What a step sees depends on the seed and the epoch alone: not on workers, restarts or the cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_batches import pets, same
from torch import Tensor

from stitching.config.errors import UserError
from stitching.config.preprocessing import Preprocessing
from stitching.data import loading
from stitching.data.datasets import open_dataset
from stitching.data.loading import Batches, derive_seed

Epoch = list[tuple[Tensor, Tensor]]


def digits(train: bool = True, **arguments: object) -> Batches:
    settings = {"batch_size": 256, "seed": 1, **arguments}
    return Batches("digits", None, preprocessing=Preprocessing(), split="train" if train else "test", **settings)  # type: ignore[arg-type]


def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """A list that grows by the key of every image that is made."""
    keys: list[tuple[int, int]] = []
    original = loading._Images.__getitem__
    monkeypatch.setattr(loading._Images, "__getitem__", lambda self, key: keys.append(key) or original(self, key))
    return keys


def error_of(call: Callable[[], object]) -> Exception:
    """What `call` raises, without the traceback, which would keep workers until a garbage collection."""
    try:
        call()
    except Exception as error:
        return error.with_traceback(None)
    raise AssertionError("nothing was raised")


def test_derived_seeds_never_change() -> None:
    assert derive_seed(12345, "order", 0) == 0x8726A64D3FA44D38
    parts = [(1, 23), (12, 3), (123,), ("1", 23), (1, "23"), ("1, 23",), ()]
    assert len({derive_seed(*part) for part in parts}) == len(parts)
    assert all(0 <= derive_seed(i) < 2**64 for i in range(100))


def test_attributes(folder: Path) -> None:
    batches = pets(folder)
    assert (batches.num_classes, batches.shape, len(batches)) == (2, (3, 16, 16), 5)
    assert digits(batch_size=100).shape == (1, 32, 32)
    told = Batches(
        "digits", None, preprocessing=Preprocessing(data_augmentation=True), batch_size=9, seed=0, split="train"
    )
    assert "data_augmentation is ignored" in told.notes[0]


def test_shapes_and_types(folder: Path) -> None:
    for batches in (pets(folder), pets(folder, workers=1), pets(folder, augment=False)):
        images, labels = next(batches.epoch(0))
        assert (images.shape, images.dtype, images.is_contiguous()) == ((4, 3, 16, 16), torch.float32, True)
        assert (labels.shape, labels.dtype) == ((4,), torch.int64)


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_workers_change_nothing(folder: Path, augment: bool, train: bool) -> None:
    alone, helped = (pets(folder, train, augment, workers=workers) for workers in (0, 2))
    for epoch in (0, 1, derive_seed(1, "far out")):
        assert same(list(alone.epoch(epoch)), list(helped.epoch(epoch)))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has CPUs
@pytest.mark.parametrize(("cpus", "workers"), [(1, 0), (6, 6), (200, 16)])
def test_a_set_too_large_for_memory_is_loaded_by_the_cpus_there_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int
) -> None:
    monkeypatch.setattr(loading, "cpus_of_process", lambda: cpus)
    assert [pets(folder, workers=None)._loader.num_workers, digits(workers=None)._loader.num_workers] == [0, 0]
    assert pets(folder, train=False, workers=None)._cache is not None
    monkeypatch.setattr(loading, "CACHE_BYTES", 1000)
    assert pets(folder, workers=None)._loader.num_workers == workers
    assert pets(folder, workers=3)._loader.num_workers == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_restart_in_mid_epoch_changes_nothing(folder: Path, workers: int) -> None:
    whole = list(pets(folder).epoch(3))
    batches = pets(folder, workers=workers)
    next(batches.epoch(0))  # left in the middle
    for start in (0, 2, 4, 5):
        assert same(list(batches.epoch(3, start)), whole[start:])


@pytest.mark.parametrize("augment", [True, False])
def test_skipped_batches_are_not_computed(folder: Path, monkeypatch: pytest.MonkeyPatch, augment: bool) -> None:
    batches = pets(folder, augment=augment)
    looked_at = looks(monkeypatch)
    list(batches.epoch(0, 4))
    assert len(looked_at) == 2


def test_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int, **arguments: object) -> list[int]:
        return torch.cat([labels for _, labels in digits(seed=seed, **arguments).epoch(epoch)]).tolist()

    assert order(1, 0) == order(1, 0, batch_size=100)
    assert order(1, 0) == order(1, 0, workers=1)
    assert len({tuple(order(*way)) for way in ((1, 0), (1, 1), (2, 0), (2, 1))}) == 4


def test_every_training_image_comes_once_an_epoch() -> None:
    dataset = open_dataset("digits")
    labels = sorted(dataset[i][1] for i in range(len(dataset)))
    seen = list(digits().epoch(5))
    assert sorted(torch.cat([labels for _, labels in seen]).tolist()) == labels
    assert len({image.numpy().tobytes() for images, _ in seen for image in images}) == len(dataset)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [359, 100, 1000])
def test_held_out_images_all_come_in_their_own_order(workers: int, batch_size: int) -> None:
    batches = digits(train=False, workers=workers, batch_size=batch_size)
    dataset = open_dataset("digits", train=False)
    for epoch in (0, 7):
        seen = list(batches.epoch(epoch))
        assert len(seen) == len(batches)
        assert torch.cat([labels for _, labels in seen]).tolist() == [dataset[i][1] for i in range(360)]


@pytest.mark.parametrize(
    ("batch_size", "arguments", "sizes"),
    [
        (4, {}, [4, 4, 4, 4, 2]),
        (17, {}, [17]),  # BatchNorm cannot train with the single image that is left
        (17, {"drop_last": False}, [17, 1]),
        (17, {"train": False, "batch_size": 5}, [5, 1]),
        (4, {"drop_last": True}, [4, 4, 4, 4]),
        (100, {"drop_last": True}, [18]),
        (4, {"max_batches": 2}, [4, 4]),
        (4, {"max_batches": 100}, [4, 4, 4, 4, 2]),
    ],
)
@pytest.mark.parametrize("augment", [True, False])
def test_last_batch(folder: Path, batch_size: int, arguments: dict, sizes: list[int], augment: bool) -> None:
    batches = pets(folder, **{"augment": augment, "batch_size": batch_size, **arguments})
    assert len(batches) == len(sizes)
    assert [len(labels) for _, labels in batches.epoch(0)] == sizes


def test_augmentation_differs_between_epochs_and_images(folder: Path) -> None:
    batches = pets(folder, batch_size=18)
    (one, labels), (other, other_labels) = next(batches.epoch(0)), next(batches.epoch(1))
    assert not any(torch.equal(a, b) for a in one for b in other)
    assert sorted(labels) == sorted(other_labels)
    (again, _), *_ = pets(folder, batch_size=18, seed=2).epoch(0)
    assert not any(torch.equal(a, b) for a in one for b in again)


def test_augmentation_depends_on_the_image_not_on_its_batch(folder: Path) -> None:
    small, large = (torch.cat([images for images, _ in pets(folder, batch_size=n).epoch(0)]) for n in (5, 9))
    assert torch.equal(small, large)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [True, False])
def test_random_state_of_the_caller_is_left_alone(folder: Path, workers: int, augment: bool) -> None:
    def states() -> list[bytes]:
        return [
            torch.get_rng_state().numpy().tobytes(), repr(random.getstate()).encode(),
            repr([np.asarray(part).tolist() for part in np.random.get_state()]).encode(),
        ]  # fmt: skip

    before = states()
    batches = pets(folder, augment=augment, workers=workers)
    for epoch in range(2):
        for _ in batches.epoch(epoch):
            assert states() == before
    assert states() == before


def test_random_state_of_the_caller_does_not_matter(folder: Path) -> None:
    torch.manual_seed(1)
    one = list(pets(folder).epoch(0))
    torch.manual_seed(2)
    assert same(one, list(pets(folder).epoch(0)))


@pytest.mark.parametrize("arguments", [{}, {"only": 300}, {"validation": (0.2, 5)}, {"train": False, "only": 90}])
def test_cached_batches_are_the_same(monkeypatch: pytest.MonkeyPatch, arguments: dict) -> None:
    cached = digits(batch_size=100, **arguments)
    assert cached._cache is not None
    monkeypatch.setattr(loading, "CACHE_BYTES", 0)
    plain = digits(batch_size=100, **arguments)
    assert plain._cache is None
    for epoch, start in ((0, 10), (0, 0), (1, 3)):  # first a part of it, then all
        assert same(list(cached.epoch(epoch, start)), list(plain.epoch(epoch, start)))


def test_cached_batches_can_be_written_to() -> None:
    batches = digits()
    first = [images.clone() for images, _ in batches.epoch(0)]
    for images, labels in batches.epoch(0):
        images.zero_()
        labels.zero_()
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, batches.epoch(0), strict=True))


def test_cached_images_are_made_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = looks(monkeypatch)
    batches = pets(folder, augment=False)
    for epoch in range(3):
        list(batches.epoch(epoch))
    assert len(looked_at) == len(set(looked_at)) == 18
    list(pets(folder, augment=False).epoch(0))  # the files may be others by now
    assert len(looked_at) == 2 * 18


def test_the_tensors_of_digits_last_from_run_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def images(size: int, mean: float = 0.5, **arguments: object) -> Epoch:
        preprocessing = Preprocessing(image_size=size, mean=[mean])
        where = str(len(looked_at))  # no folder that it needs to be found in
        return list(Batches("digits", where, preprocessing=preprocessing, batch_size=256, **arguments).epoch(0))  # type: ignore[arg-type]

    every: dict[str, object] = {"seed": 1, "split": "train"}
    looked_at = looks(monkeypatch)
    first = images(5, **every)
    assert len(looked_at) == 1437
    assert same(images(5, **every), first)
    for more in ({"only": 100}, {"validation": (0.3, 2)}, {"split": "val", "validation": (0.3, 2)}, {"seed": 2}):
        images(5, **{**every, **more})
    assert len(looked_at) == 1437
    assert not same(images(5, 0.4, **every), first)
    assert images(6, **every)[0][0].shape[-1] == 6
    assert len(looked_at) == 3 * 1437
    assert len(images(5, **{**every, "split": "test"})) == 2
    assert len(looked_at) == 3 * 1437 + 360
    for size in (7, 8):  # more than are kept
        images(size, only=1, **every)
    before = len(looked_at)
    assert same(images(5, **every), first)
    assert len(looked_at) == before + 1437


def test_random_images_are_never_cached(folder: Path) -> None:
    assert pets(folder)._cache is None
    assert pets(folder, train=False)._cache is not None


@pytest.mark.parametrize("workers", [0, 2])
def test_an_older_epoch_cannot_be_read_on(folder: Path, workers: int) -> None:
    batches = pets(folder, workers=workers)
    older = batches.epoch(0)
    next(older)
    next(batches.epoch(1))
    assert "another epoch" in str(error_of(lambda: next(older)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [True, False])
def test_broken_image_is_told_in_words(tmp_path: Path, workers: int, augment: bool) -> None:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / part / label).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / label / "0.png")
    broken = tmp_path / "train" / "dog" / "0.png"
    broken.write_bytes(b"not an image")
    told = error_of(lambda: list(pets(tmp_path, augment=augment, workers=workers).epoch(0)))
    assert isinstance(told, UserError)
    assert str(broken) in told.problem
    assert "Traceback" not in str(told)
    assert "Replace the file" in (told.do or "")


def test_wrong_settings_name_their_key() -> None:
    with pytest.raises(UserError) as told:
        Batches("digits", None, preprocessing=Preprocessing(mean=[1.0, 2.0]), batch_size=1, seed=0, split="train")
    assert told.value.path == ("data_preprocessing", "mean")
    with pytest.raises(UserError) as told:
        Batches("digit", None, preprocessing=Preprocessing(), batch_size=1, seed=0, split="train")
    assert told.value.path == ("dataset",)
