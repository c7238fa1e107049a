"""The losses and metrics of a network's scores, in training and in tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def make_losses(config: TrainConfig, classes: Sequence[int]) -> tuple[list[Loss], list[AuxLoss]]:
    """The loss of each task, and the auxiliary losses; raises `UserError` as `make_loss` does.

    Args:
        classes: of each task.
    """
    num_classes = classes[0] if len(classes) == 1 else None
    losses = []
    for i, (task, count) in enumerate(zip(config.task_list, classes, strict=True)):
        if task.loss_fn is None:
            losses.append(make_loss(config.loss_fn, config.loss_fn_args, num_classes))
        else:
            with at("tasks", i):
                losses.append(make_loss(task.loss_fn, task.loss_fn_args, count))
    aux_losses = []
    for i, term in enumerate(config.aux_losses):
        with at("aux_losses", i):
            aux_loss = make_loss(term.loss_fn, term.loss_fn_args, num_classes)
            aux_losses.append(AuxLoss(term.output, aux_loss, term.weight))
    return losses, aux_losses


@dataclass(frozen=True)
class Scorer:
    """The losses and metrics of a job, for batches that are split over the processes of `world`.

    Attributes:
        training_losses, test_losses: of each task.
        loss_scales: what each task's loss is multiplied with in the sum that is trained.
    """

    training_losses: list[TrainingLoss]
    test_losses: list[Loss]
    loss_scales: list[float]
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
        loss = self.training_losses[task].share(scores, labels, teacher, self.world)
        for aux in self.aux_losses:
            output = self.hooked_outputs[aux.output][: len(labels)]
            loss = loss + aux.weight * aux.loss.share(output, labels, self.world)
        values.loss = values.loss + self.loss_scales[task] * loss
        if self.has_several_tasks:
            values.means[self.column("Loss", task)] = (loss.detach(), len(labels))
        values.sums.update(self._metrics(scores, labels, task))

    def add_test(
        self, values: BatchValues, scores: Tensor, labels: Tensor, task: int, reference: Tensor | None
    ) -> None:
        """Add a test batch's loss and metrics, and how far the predictions agree with the reference's."""
        values.loss = values.loss + self.test_losses[task].share(scores, labels, self.world)
        values.sums.update(self._metrics(scores, labels, task))
        if reference is not None:
            for name, value in comparison(scores, reference).items():
                values.sums[name] = (value, len(labels))

    def _metrics(self, scores: Tensor, labels: Tensor, task: int) -> Iterator[tuple[str, tuple[Tensor, int]]]:
        for metric in self.metrics:
            output = self.hooked_outputs[metric.output][: len(labels)] if metric.output else scores
            for name, value in metric.sums(output.detach(), labels).items():
                yield self.column(name, task), (value, len(labels))
