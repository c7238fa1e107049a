"""A batch's loss and metrics: tensors on the device, until those of many batches are fetched at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stitching.training.distributed import ProcessGroup

__all__ = ["Averages", "BatchValues", "FetchedValues", "fetch"]


@dataclass
class BatchValues:
    """Loss and metrics of this process's images of a batch; reading the tensors would wait for the device.

    Attributes:
        loss: what these images add to the mean loss of the whole batch.
        count: the number of these images.
        sums: of each metric the sum over these images, and their number.
        means: as `loss`, for each of several tasks, with the number of its images.
    """

    loss: Tensor
    count: int
    sums: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    means: dict[str, tuple[Tensor, int]] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        """The loss, the means, the sums."""
        yield self.loss
        yield from (value for value, _ in (*self.means.values(), *self.sums.values()))

    def counts(self) -> Iterator[int]:
        """The number of images of each of `tensors`."""
        yield self.count
        yield from (count for _, count in (*self.means.values(), *self.sums.values()))


@dataclass(frozen=True)
class FetchedValues:
    """Values of a whole batch: its mean loss, and sums over images by name, with the number of images."""

    loss: float
    count: int
    sums: dict[str, tuple[float, int]]


def fetch(batches: Sequence[BatchValues], world: ProcessGroup) -> list[FetchedValues]:
    """The values of whole batches as numbers: waits once for the device, and adds up those of all processes."""
    if not batches:
        return []
    numbers = _on_host([tensor.detach() for batch in batches for tensor in batch.tensors()])
    counts = [int(count) for count in world.sums([count for batch in batches for count in batch.counts()])]
    first = 0  # the index of a batch's loss; its means and sums follow
    for batch in batches:
        for i in range(first + 1, first + 1 + len(batch.means)):
            numbers[i] *= counts[i]
        first += 1 + len(batch.means) + len(batch.sums)
    numbers = world.sums(numbers)
    fetched, first = [], 0
    for batch in batches:
        names = (*batch.means, *batch.sums)
        sums = zip(numbers[first + 1 :], counts[first + 1 :], strict=True)
        fetched.append(FetchedValues(numbers[first], counts[first], dict(zip(names, sums, strict=False))))
        first += 1 + len(names)
    return fetched


def _on_host(tensors: list[Tensor]) -> list[float]:
    if tensors and tensors[0].device.type == "cuda":
        return torch.stack([tensor.double() for tensor in tensors]).tolist()
    return [tensor.item() for tensor in tensors]


class Averages:
    """Sums of named values over samples, and their means: a batch counts by its size."""

    def __init__(self, sums: dict[str, float] | None = None, counts: dict[str, int] | None = None) -> None:
        self.sums = sums or {}
        self.counts = counts or {}

    def add(self, name: str, value: float, count: int) -> None:
        """Add the sum over `count` further samples."""
        self.sums[name] = self.sums.get(name, 0.0) + value
        self.counts[name] = self.counts.get(name, 0) + count

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: self.sums[name] / self.counts[name] for name in self.sums}

    def state(self) -> dict[str, dict[str, float]]:
        """Plain data for a checkpoint; the constructor's arguments."""
        return {"sums": dict(self.sums), "counts": dict(self.counts)}
