"""The schema of a training: data, optimizer, schedule, losses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stitching.config.bounds import Count, Epochs, Positive, Seed
from stitching.config.dataset_names import DatasetName
from stitching.config.preprocessing import AugmentationField, Preprocessing
from stitching.config.registries import NameIn
from stitching.config.schema import Neutral, Schema, complaint

__all__ = ["MONITORS", "LRSchedulerArgs", "LossTerm", "TaskConfig", "TrainConfig", "Validation"]

LossName = Annotated[str, NameIn("stitching.training.losses:LOSSES")]
OptimizerName = Annotated[str, NameIn("stitching.training.optim:OPTIMIZERS", library="torch.optim")]
SchedulerName = Annotated[str, NameIn("stitching.training.schedules:LR_SCHEDULERS", library="torch.optim.lr_scheduler")]


class Validation(Schema):
    """The part of the training images that is held out, for choosing a learning rate or an epoch by it."""

    fraction: Annotated[float, Field(gt=0, lt=1)]
    """Share of the training images that is held out."""
    seed: Seed = 0
    """Which images they are. It is not the training's seed: all runs of a sweep hold out the same images."""


class TaskConfig(Schema):
    """One of several data sets that are learned side by side, a head for each."""

    dataset: DatasetName
    """Name of the data set."""
    batch_size: Annotated[Count, Field(le=1_000_000)] | None = None
    """Images in a batch; by default that of `train_config`."""
    max_batches: Count | None = None
    """Use so many batches of this data set in an epoch; by default as `train_config` says."""
    data_preprocessing: Preprocessing | None = None
    """Keys that this data set has instead of those of `train_config`. All images must have one size."""
    loss_fn: LossName | None = None
    """Loss of this task; by default that of `train_config` with its arguments."""
    loss_fn_args: dict[str, Any] = {}
    """Its arguments."""
    loss_scale: Annotated[float, Field(ge=0, le=10**9)] = 1.0
    """What the task's loss is multiplied with in the sum that is trained. Measured losses are not scaled."""


class LossTerm(Schema):
    """An auxiliary loss on the output of a module inside the network."""

    output: str
    """Name of the module, such as `parts.0.net`, or of a value in a piece, as in torchvision's feature extraction."""
    loss_fn: LossName = "cross_entropy"
    """Name of the loss."""
    loss_fn_args: dict[str, Any] = {}
    """Its arguments."""
    weight: float = 1.0
    """What it is multiplied with before it is added to the loss."""


class NestedScheduler(Schema):
    """One of the schedulers that SequentialLR or ChainedScheduler is made of."""

    lr_scheduler: SchedulerName
    """The scheduler."""
    lr_scheduler_args: LRSchedulerArgs | None = None
    """Its arguments."""


MONITORS = ("Train Loss", "Train Accuracy", "Val Loss", "Val Accuracy")


class LRSchedulerArgs(Schema):
    """Arguments of a torch scheduler, and some of our own."""

    model_config = {"extra": "allow", "strict": True}
    open_to = "arguments of the scheduler"

    cadence: Literal["epochs", "steps"] = "epochs"
    """Whether it steps after every epoch or every training step."""
    monitor: Annotated[str, Field(json_schema_extra={"enum": list(MONITORS)})] | None = None
    """What ReduceLROnPlateau watches. By default the validation loss where there is one after every epoch, else the
    training loss (of several tasks, the sum).
    """
    schedulers: list[NestedScheduler] | None = None
    """Those that SequentialLR or ChainedScheduler is made of; they have the outer one's cadence."""

    @model_validator(mode="after")
    def _nothing_is_chosen_by_tests(self) -> Self:
        if self.monitor is not None and self.monitor not in MONITORS:
            of_test = "The test set only reports; nothing is chosen by it." if "test" in self.monitor.lower() else None
            raise complaint(f"found {self.monitor!r}", ", ".join(MONITORS), do=of_test, key="monitor")
        return self

    def spread_cadence(self) -> None:
        """Give the schedulers inside, which step with this one, its cadence. Raises if one has another."""
        for nested in self.schedulers or []:
            inner = nested.lr_scheduler_args = nested.lr_scheduler_args or LRSchedulerArgs()
            if "cadence" in inner.model_fields_set and inner.cadence != self.cadence:
                raise complaint(
                    f"a scheduler inside has the cadence {inner.cadence}, the outer one {self.cadence}",
                    "one cadence, given in the outer one",
                    key="lr_scheduler_args",
                )
            inner.cadence = self.cadence
            inner.spread_cadence()

    @property
    def torch_args(self) -> dict[str, Any]:
        """What goes to the torch class as it is."""
        return dict(self.model_extra or {})


class TrainConfig(Schema):
    """How to train."""

    dataset: DatasetName | None = None
    """Name of the data set, one of ours or of a plugin."""
    tasks: Annotated[list[TaskConfig], Field(min_length=1)] | None = None
    """Several data sets that are learned side by side, instead of `dataset`; the network has a head for each."""
    data_preprocessing: Preprocessing = Preprocessing()
    """Size, augmentation and normalisation of the images."""
    data_augmentation: AugmentationField | None = None
    """Older place of `data_preprocessing.data_augmentation`."""
    validation: Validation | None = None
    """Training images that are held out, to choose a learning rate or an epoch by."""
    seed: Seed = 12345
    """Seed of the untrained weights, of the order of the images, and of augmentation and dropout."""
    epochs: Epochs = 10
    """Passes over the training images. 0 tests the network as it is built."""
    max_steps: Count | None = None
    """End the training after so many steps."""
    max_batches: Count | None = None
    """End every epoch after so many batches."""
    batch_size: Annotated[Count, Field(le=1_000_000)] = 256
    """Images in a batch, of all processes together."""
    max_grad_norm: Annotated[float, Field(ge=0)] | None = None
    """Clip the norm of the gradient to this; 0 does not."""
    loss_fn: LossName = "cross_entropy"
    """Name of the loss, one of ours or of a plugin."""
    loss_fn_args: dict[str, Any] = {}
    """Its arguments, such as `label_smoothing` or `weight` (one number for each class). They are for training alone:
    losses of tests and validation are plain.
    """
    aux_losses: list[LossTerm] = []
    """Further losses, on outputs of modules inside the network; for training alone."""
    optimizer: OptimizerName = "AdamW"
    """The optimizer."""
    optimizer_args: dict[str, Any] = {}
    """Its arguments, such as `lr` and `weight_decay`."""
    weight_decay_on: Literal["all", "matrices"] = "all"
    """`matrices`: the weights of convolutions and linear layers decay, and nothing else does: no bias, norm, class
    token, position embedding or layer scale.
    """
    lr: Positive | None = None
    """Learning rate; short for `optimizer_args: {lr: ...}`."""
    lr_scheduler: SchedulerName | None = None
    """Schedule of the learning rate; without one it is constant."""
    lr_scheduler_args: Annotated[LRSchedulerArgs | None, Neutral(LRSchedulerArgs())] = None
    """Its arguments."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.dataset is None) == (self.tasks is None):
            said = "neither" if self.dataset is None else "both"
            raise complaint(f"{said} of dataset and tasks given", "exactly one of dataset, tasks")
        if self.tasks and len({task.dataset for task in self.tasks}) < len(self.tasks):
            raise complaint("two tasks have the same data set", "each data set once", key="tasks")
        lr = self.optimizer_args.get("lr")
        if self.lr is not None and lr is not None and self.lr != lr:
            raise complaint(f"lr is {self.lr} here and {lr} in optimizer_args", "one of them", key="lr")
        if self.lr is not None:  # one place for the rest of the code to look in
            self.optimizer_args = {**self.optimizer_args, "lr": self.lr}
            self.lr = None
        inner = self.data_preprocessing.data_augmentation
        if self.data_augmentation is not None and inner is not None and self.data_augmentation != inner:
            raise complaint(
                f"data_augmentation is {self.data_augmentation} here and {inner} in data_preprocessing",
                "one of them",
                key="data_augmentation",
            )
        augmentation = inner if self.data_augmentation is None else self.data_augmentation
        preprocessing = self.data_preprocessing.model_copy(update={"data_augmentation": augmentation})
        self.data_preprocessing = preprocessing.in_one_spelling
        self.data_augmentation = None
        self.max_grad_norm = self.max_grad_norm or None
        self._complete_tasks()
        if self.lr_scheduler_args:
            self.lr_scheduler_args.spread_cadence()
        if self.lr_scheduler is None and self.lr_scheduler_args is not None:
            raise complaint(
                "lr_scheduler_args without lr_scheduler", "lr_scheduler: a class of torch.optim.lr_scheduler"
            )
        return self

    def _complete_tasks(self) -> None:
        """Give each task that has a preprocessing of its own all keys of it."""
        for i, task in enumerate(self.tasks or []):
            if task.loss_fn_args and task.loss_fn is None:
                raise complaint(f"task {i + 1} has loss_fn_args without loss_fn", "both", key="tasks")
            if task.data_preprocessing is not None:
                own = {
                    name: getattr(task.data_preprocessing, name) for name in task.data_preprocessing.model_fields_set
                }
                merged = self.data_preprocessing.model_copy(update=own)
                task.data_preprocessing = merged.in_one_spelling

    def preprocessing_of(self, task: TaskConfig) -> Preprocessing:
        """How the images of one of the tasks become tensors."""
        return task.data_preprocessing or self.data_preprocessing

    @property
    def task_list(self) -> list[TaskConfig]:
        """The tasks, of which an ordinary job has one; each with its batch size."""
        tasks = self.tasks or [TaskConfig(dataset=self.dataset or "")]
        return [task.model_copy(update={"batch_size": task.batch_size or self.batch_size}) for task in tasks]


NestedScheduler.model_rebuild()
