"""The losses and metrics of a network's scores, in training and in tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from stitching.config.errors import at
from stitching.config.train_config import TrainConfig
from stitching.training.batch_values import BatchValues
from stitching.training.distributed import ProcessGroup
from stitching.training.losses import Loss, make_loss
from stitching.training.metrics import BoundMetric, comparison
from stitching.training.network_outputs import HookedOutputs
from stitching.training.objectives import TrainingLoss

__all__ = ["AuxLoss", "Scorer", "make_losses"]


@dataclass(frozen=True)
class AuxLoss:
    """A further loss in training, on the output of a module inside the network."""

    output: str
    loss: Loss
    weight: float


def make_losses(config: TrainConfig, num_classes: int | None) -> tuple[Loss, list[AuxLoss]]:
    """The loss and the auxiliary losses of a config; raises `UserError` as `make_loss` does.

    Args:
        num_classes: of the data; None if there are several tasks.
    """
    loss = make_loss(config.loss_fn, config.loss_fn_args, num_classes)
    aux_losses = []
    for i, term in enumerate(config.aux_losses):
        with at("aux_losses", i):
            aux_loss = make_loss(term.loss_fn, term.loss_fn_args, num_classes)
            aux_losses.append(AuxLoss(term.output, aux_loss, term.weight))
    return loss, aux_losses


@dataclass(frozen=True)
class Scorer:
    """The losses and metrics of a job, for batches that are split over the processes of `world`."""

    training_loss: TrainingLoss
    test_loss: Loss
    aux_losses: list[AuxLoss]
    metrics: list[BoundMetric]
    hooked_outputs: HookedOutputs
    task_names: list[str]
    world: ProcessGroup

    @property
    def has_several_tasks(self) -> bool:
        return len(self.task_names) > 1

    def column(self, name: str, task: int) -> str:
        """A column of the result: with several tasks, its name begins with the task."""
        return f"{self.task_names[task]}/{name}" if self.has_several_tasks else name

    def add_training(
        self, values: BatchValues, scores: Tensor, labels: Tensor, task: int, teacher: Tensor | None
    ) -> None:
        """Add a task's loss and metrics in training; `scores` and `teacher` are (N, classes), `labels` (N)."""
        loss = self.training_loss.share(scores, labels, teacher, self.world)
        for aux in self.aux_losses:
            output = self.hooked_outputs[aux.output][: len(labels)]
            loss = loss + aux.weight * aux.loss.share(output, labels, self.world)
        values.loss = values.loss + loss
        if self.has_several_tasks:
            values.means[self.column("Loss", task)] = (loss.detach(), len(labels))
        values.sums.update(self._metrics(scores, labels, task))

    def add_test(
        self, values: BatchValues, scores: Tensor, labels: Tensor, task: int, reference: Tensor | None
    ) -> None:
        """Add a test batch's loss and metrics, and how far the predictions agree with the reference's."""
        values.loss = values.loss + self.test_loss.share(scores, labels, self.world)
        values.sums.update(self._metrics(scores, labels, task))
        if reference is not None:
            for name, value in comparison(scores, reference).items():
                values.sums[name] = (value, len(labels))

    def _metrics(self, scores: Tensor, labels: Tensor, task: int) -> Iterator[tuple[str, tuple[Tensor, int]]]:
        for metric in self.metrics:
            output = self.hooked_outputs[metric.output][: len(labels)] if metric.output else scores
            for name, value in metric.sums(output.detach(), labels).items():
                yield self.column(name, task), (value, len(labels))
