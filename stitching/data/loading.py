"""Batches whose content depends only on the seed, the epoch and the data set, never on how they are loaded."""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import random
import signal
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from stitching.config.errors import UserError, at
from stitching.config.preprocessing import Preprocessing
from stitching.data.datasets import ImageDataset, UnreadableImage, dataset_info, open_dataset
from stitching.data.transforms import image_shape, is_random, make_transform, normalization
from stitching.processes import cpus_of_process

__all__ = ["Batches", "Split", "derive_seed"]

CACHE_BYTES = 256 * 2**20  # the largest set of tensors that is kept in memory
CACHE_BYTES_OF_PROCESS = 32 * 2**20  # the largest that is kept beyond the batches that it was made for
MOST_CACHES_OF_PROCESS = 4
MOST_WORKERS = 16  # unless a config asks for more

Key = tuple[int, int]  # of a transformed image: (epoch, index in the data set)
Batch = tuple[Tensor, Tensor]
Split = Literal["train", "val", "test"]


def derive_seed(*parts: int | str) -> int:
    """A 64-bit seed from `parts`; other parts, another seed. The same in every process, version and machine."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


class Batches:
    """The batches of a data set's training, validation or test images.

    The order of the training images depends only on (seed, epoch), and the randomness of an augmentation only on
    (seed, epoch, index of the image). The others come in the order of the data set, every one of them once, and are
    not augmented. The random state of the calling process is left alone.

    Without workers, images whose transform is not random are cached as tensors, if the whole set takes no more than
    256 MiB. Those of a `constant` data set are shared with later batches of this process: the latest
    four sets of at most 32 MiB.

    Args:
        dataset_name, data_path: as for `open_dataset`.
        split: which images: `train`, `test` (those that the data set holds out, often called its validation set), or
            `val`, the part of the training images that `validation` holds out.
        validation: (fraction, seed) of the training images that are not trained on; None holds out none. Which they
            are depends on these two numbers and on how many training images there are.
        workers: processes that load images; 0 loads them in this one. They live as long as this object. None: as many
            as this process has CPUs, up to 16; none if it has one only, or if the set would take no more than 256 MiB
            as tensors. What they load is the same, however many there are.
        pin_memory: put batches in page-locked memory, for a faster way to the GPU; nothing happens without one.
        max_batches: end an epoch after this many batches.
        share: (i, n) for the i-th of n processes, from 0, which has an n-th of every batch, and only that is loaded.
            The shares differ by one image at most. A process for whose share a small last batch has no image gets its
            first image without a label: something to compute with that must not count.
        only: use this many of the images, or all if there are fewer; which ones depends on the seed.
        drop_last: whether a last batch that is not full is left out. None: of the training images, only if it is a
            single image, which BatchNorm cannot train with; of the others, never. An only batch is always kept.

    Attributes:
        num_classes: of the data set.
        shape: (C, H, W) of the images.
        num_images: the number of different images.
        split: the argument.
        notes: for the user, a line for each setting that is ignored.

    Raises:
        UserError: no such data set, its files are missing, a setting of the preprocessing is wrong, or nothing is left
            of the training images or of those to validate with.
    """

    def __init__(
        self,
        dataset_name: str,
        data_path: str | Path | None,
        *,
        preprocessing: Preprocessing,
        batch_size: int,
        seed: int,
        split: Split,
        validation: tuple[float, int] | None = None,
        workers: int | None = 0,
        pin_memory: bool = False,
        max_batches: int | None = None,
        only: int | None = None,
        drop_last: bool | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.split = split
        train = split == "train"
        info = dataset_info(dataset_name, data_path)
        with at("data_preprocessing"):
            transform, self.notes = make_transform(info, preprocessing, train)
        self.normalization = normalization(transform)
        self.num_classes = info.num_classes
        self.shape = image_shape(info, preprocessing.in_one_spelling)
        source = open_dataset(dataset_name, data_path, train=split != "test")
        rows = torch.arange(len(source))
        if split != "test" and validation:
            rows = _held_out(rows, *validation, split)
        if only:
            rows = _subset(rows, only, seed)
        images = _Images(source, rows, dataset_name, transform, seed)
        self.num_images = len(images)
        if train and drop_last is None:
            drop_last = len(images) % batch_size == 1
        self._order = _Order(len(images), batch_size, seed if train else None, bool(drop_last), max_batches, share)
        self._pin = pin_memory and torch.cuda.is_available()
        self._newest = 0  # number of the latest call of `epoch`
        self._cache: _Cache | None = None
        is_small = len(images) * math.prod(self.shape) * 4 <= CACHE_BYTES
        if workers is None:
            workers = 0 if is_small else _workers_for(cpus_of_process())
        self._started = workers == 0
        if workers == 0 and not images.random and is_small:
            # A training transform that is not random is that of the test images.
            key = (info, split == "test", preprocessing.of_tests().model_dump_json()) if info.constant else None
            self._cache, self._cache_rows = _cache_of(images, self.shape, key)
        self._loader = DataLoader(
            images,
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=self._pin,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # the loader seeds its workers from it; they need none from the global one
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._order)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; those before it are not computed.

        Begins a new round: an iterator of an earlier call must not be used any more. Held-out images are the same in
        every epoch.

        Yields:
            images, float32 (N, C, H, W), and labels, int64 (N); or one image and no label, see `share`.

        Raises:
            UserError: an image cannot be read.
        """
        self._newest += 1
        return self._batches(epoch, start, self._newest)

    def _batches(self, epoch: int, start: int, number: int) -> Iterator[Batch]:
        self._check_newest(number)
        self._order.epoch, self._order.start = epoch, start
        for index, batch in enumerate(self._cached() if self._cache else self._loaded(), start):
            if isinstance(batch, UserError):
                raise batch
            yield batch if self._order.has_share(index) else (batch[0], batch[1][:0])
            self._check_newest(number)

    def _check_newest(self, number: int) -> None:
        if number != self._newest:  # the workers load the later call's batches by now
            raise RuntimeError("another epoch of these batches has begun since")

    def _cached(self) -> Iterator[Batch]:
        assert self._cache is not None
        for keys in self._order:
            images, labels = self._cache[self._cache_rows[[index for _, index in keys]]]
            yield (images.pin_memory(), labels.pin_memory()) if self._pin else (images, labels)

    def _loaded(self) -> Iterator[Batch | UserError]:
        if self._started:
            return iter(self._loader)
        self._started = True
        with _delayed_signals():  # the first call starts the workers
            return iter(self._loader)


def _workers_for(cpus: int) -> int:
    return min(cpus, MOST_WORKERS) if cpus > 1 else 0


def _subset(rows: Tensor, only: int, seed: int) -> Tensor:
    """A random subset of the images, in their old order."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "chosen"))
    return rows[torch.randperm(len(rows), generator=generator)[:only].sort().values]


def _held_out(rows: Tensor, fraction: float, seed: int, split: Split) -> Tensor:
    """A fraction of the training images (`val`), or the others (`train`), in their old order."""
    count = round(fraction * len(rows))
    if not 0 < count < len(rows):
        raise UserError(
            f"{fraction:g} of {len(rows)} training images are {count}",
            allowed="a fraction that leaves images to train with and images to validate with",
            path=("validation", "fraction"),
        )
    generator = torch.Generator().manual_seed(derive_seed(seed, "validation"))
    order = torch.randperm(len(rows), generator=generator)
    chosen = order[:count] if split == "val" else order[count:]
    return rows[chosen.sort().values]


class _Order(Sampler[list[Key]]):
    """The batches of the current epoch as keys of images; without a seed, in the order of the data set."""

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int | None,
        drop_last: bool,
        max_batches: int | None,
        share: tuple[int, int],
    ) -> None:
        self.images, self.batch_size, self.seed, self.share = images, batch_size, seed, share
        batches = max(images // batch_size, 1) if drop_last else -(-images // batch_size)
        self.batches = batches if max_batches is None else min(batches, max_batches)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, order = self.epoch, torch.arange(self.images)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
            order = torch.randperm(self.images, generator=generator)
        for chosen in order.split(self.batch_size)[self.start : self.batches]:
            number, of = self.share
            shard = chosen.tensor_split(of)[number]  # the first ones are larger
            yield [(epoch, index) for index in (shard if len(shard) else chosen[:1]).tolist()]

    def has_share(self, batch: int) -> bool:
        """Whether the batch of this number has an image for this process."""
        return min(self.batch_size, self.images - batch * self.batch_size) > self.share[0]


class _Images(Dataset[tuple[Tensor, int] | UserError]):
    """The transformed images by key, with the same randomness in every process.

    A broken image is returned as its error: an error that a worker raises becomes another one, with a traceback in it.
    """

    def __init__(self, images: ImageDataset, rows: Tensor, name: str, transform: v2.Compose, seed: int) -> None:
        self.images, self.rows, self.name, self.transform, self.seed = images, rows, name, transform, seed
        self.random = is_random(transform)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | UserError:
        epoch, index = key
        try:
            image, label = self.images[int(self.rows[index])]
        except UserError as error:
            return error
        except (OSError, SyntaxError) as error:  # Pillow's, from one of torchvision's own sets of files
            return UnreadableImage(
                f"image {index} of {self.name!r} cannot be read ({error})", do="Download the data set again."
            )
        if not self.random:
            return self.transform(image), label
        with _seeded(derive_seed(self.seed, "augmentation", epoch, index)):
            return self.transform(image), label


class _Cache:
    """The tensors of a whole set, each computed when it is first needed."""

    def __init__(self, images: _Images, shape: tuple[int, ...]) -> None:
        self.source = images
        self.images = torch.empty((len(images), *shape))
        self.labels = torch.empty(len(images), dtype=torch.int64)
        self.is_cached = torch.zeros(len(images), dtype=torch.bool)

    def __getitem__(self, chosen: Tensor) -> Batch:
        for index in chosen[~self.is_cached[chosen]].tolist():
            item = self.source[0, index]
            if isinstance(item, UserError):
                raise item
            self.images[index], self.labels[index] = item
            self.is_cached[index] = True
        return self.images[chosen], self.labels[chosen]


_caches_of_process: OrderedDict[Hashable, _Cache] = OrderedDict()  # the latest comes last


def _cache_of(images: _Images, shape: tuple[int, ...], key: Hashable | None) -> tuple[_Cache, Tensor]:
    """The tensors of the images, and in which of its rows they are; what this process has by `key`, if there is one."""
    count = len(images.images)
    if key is None or count * math.prod(shape) * 4 > CACHE_BYTES_OF_PROCESS:
        return _Cache(images, shape), torch.arange(len(images))
    cache = _caches_of_process.pop(key, None)
    if cache is None:
        cache = _Cache(_Images(images.images, torch.arange(count), images.name, images.transform, images.seed), shape)
    _caches_of_process[key] = cache
    if len(_caches_of_process) > MOST_CACHES_OF_PROCESS:
        _caches_of_process.popitem(last=False)
    return cache, images.rows


def _collate(items: list[tuple[Tensor, int] | UserError]) -> Batch | UserError:
    images, labels = [], []
    for item in items:
        if isinstance(item, UserError):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.tensor(labels)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Within the body random numbers come from `seed`; afterwards the random state is as before.

    `torch.manual_seed` would also seed the GPU's generator, which the caller's dropout draws from.
    """
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


DELAYED_SIGNALS = {signal.SIGINT, signal.SIGUSR2, signal.SIGTERM}


@contextmanager
def _delayed_signals() -> Iterator[None]:
    """Delay signals until the body ends; in a process that starts in it, until `_start_worker`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DELAYED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker(_: int) -> None:
    """Leave signals to the parent, which handles Ctrl-C and preemption and still needs its batches.

    Slurm signals every process of a step at once. Only the parent's own SIGTERM is obeyed, with which the loader ends
    workers that do not answer; workers whose parent is gone end by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    knows_sender = parent is not None and hasattr(signal, "sigwaitinfo")  # macOS has neither it nor Slurm
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM} if knows_sender else ())
    if parent is not None and knows_sender:
        threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()


def _end_with_parent(parent: BaseProcess) -> None:
    # torch's own watch over the parent begins later: it never sees the end of one that was killed before.
    while parent.is_alive():
        received = signal.sigtimedwait({signal.SIGTERM}, 1)
        if received and received.si_pid == parent.pid:
            break
    os._exit(0)
