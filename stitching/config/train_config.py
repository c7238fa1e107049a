"""The schema of a training: data, optimizer, schedule, losses."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stitching.config.bounds import Count, Epochs, Pixels, Positive, Seed
from stitching.config.schema import Neutral, Schema, complaint

__all__ = ["MONITORS", "LRSchedulerArgs", "LossTerm", "Preprocessing", "TaskConfig", "TrainConfig", "Validation"]


class Preprocessing(Schema):
    """How images become tensors. What is left out is as the data set's registry entry says."""

    model_config = {"frozen": True}

    image_size: Pixels | None = None
    data_augmentation: Annotated[Literal[True, False, "default", "none"] | None, Neutral("none")] = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    crop_pct: Annotated[float, Field(ge=0.01, le=1)] | None = None
    train_crop: Literal["random_resized", "pad", "none"] | None = None
    channels: Literal[1, 3] | None = None
    mean: Annotated[list[float], Field(min_length=1)] | None = None
    std: Annotated[list[Positive], Field(min_length=1)] | None = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def is_augmented(self) -> bool:
        """Whether training images get random changes."""
        return self.data_augmentation in (True, "default")

    def of_tests(self) -> Preprocessing:
        """The same without augmentation: how test images become tensors."""
        return self.model_copy(update={"data_augmentation": "none", "train_crop": None})


class Validation(Schema):
    """The part of the training images that is held out, for choosing a learning rate or an epoch by it.

    Which images these are depends on the seed that stands here, and not on that of the training: all runs of a sweep
    have the same.
    """

    fraction: Annotated[float, Field(gt=0, lt=1)]
    seed: Seed = 0


class TaskConfig(Schema):
    """One of several data sets that are learned side by side, a head for each."""

    dataset: str
    batch_size: Annotated[Count, Field(le=1_000_000)] | None = None


class LossTerm(Schema):
    """An auxiliary loss on the output of a module inside the network."""

    output: str
    loss_fn: str = "cross_entropy"
    loss_fn_args: dict[str, Any] = {}
    weight: float = 1.0


class NestedScheduler(Schema):
    """One of the schedulers that SequentialLR or ChainedScheduler is made of."""

    lr_scheduler: str
    lr_scheduler_args: LRSchedulerArgs | None = None


MONITORS = ("Train Loss", "Train Accuracy", "Val Loss", "Val Accuracy")


class LRSchedulerArgs(Schema):
    """Arguments of a torch scheduler, and two of our own.

    `cadence` is whether it steps after every epoch or every step. `monitor`, for ReduceLROnPlateau, is the number that
    it watches, one of `MONITORS`. Left out, it is the validation loss where there is one after every epoch, else the
    training loss; of several tasks, the sum of their losses.
    """

    model_config = {"extra": "allow", "strict": True}
    open_to = "arguments of the scheduler"

    cadence: Literal["epochs", "steps"] = "epochs"
    monitor: str | None = None
    schedulers: list[NestedScheduler] | None = None

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
    """How to train.

    Label smoothing, weights of classes and auxiliary losses are for training alone: the losses of tests and validation
    are plain. With `weight_decay_on: matrices` the weights of convolutions and linear layers decay, and nothing else
    does: no bias, no norm, no class token, position embedding or layer scale.
    """

    dataset: str | None = None
    tasks: Annotated[list[TaskConfig], Field(min_length=1)] | None = None
    data_preprocessing: Preprocessing = Preprocessing()
    data_augmentation: Literal[True, False, "default", "none"] | None = None
    validation: Validation | None = None
    seed: Seed = 12345
    epochs: Epochs = 10
    max_steps: Count | None = None
    max_batches: Count | None = None
    batch_size: Annotated[Count, Field(le=1_000_000)] = 256
    max_grad_norm: Positive | None = None
    loss_fn: str = "cross_entropy"
    loss_fn_args: dict[str, Any] = {}
    aux_losses: list[LossTerm] = []
    optimizer: str = "AdamW"
    optimizer_args: dict[str, Any] = {}
    weight_decay_on: Literal["all", "matrices"] = "all"
    lr: Positive | None = None
    lr_scheduler: str | None = None
    lr_scheduler_args: Annotated[LRSchedulerArgs | None, Neutral(LRSchedulerArgs())] = None

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
        wanted = inner if self.data_augmentation is None else self.data_augmentation
        names = {True: "default", False: "none", None: "none"}
        augmentation = names.get(wanted, wanted)  # type: ignore[arg-type]
        self.data_preprocessing = self.data_preprocessing.model_copy(update={"data_augmentation": augmentation})
        self.data_augmentation = None
        if self.lr_scheduler_args:
            self.lr_scheduler_args.spread_cadence()
        if self.lr_scheduler is None and self.lr_scheduler_args is not None:
            raise complaint(
                "lr_scheduler_args without lr_scheduler", "lr_scheduler: a class of torch.optim.lr_scheduler"
            )
        return self

    @property
    def task_list(self) -> list[TaskConfig]:
        """The tasks, of which an ordinary job has one; each with its batch size."""
        tasks = self.tasks or [TaskConfig(dataset=self.dataset or "")]
        return [task.model_copy(update={"batch_size": task.batch_size or self.batch_size}) for task in tasks]


NestedScheduler.model_rebuild()
