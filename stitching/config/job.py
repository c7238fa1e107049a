"""The schema of a job: one network, one data set, one training."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from stitching.config.bounds import Count, Epochs, PathText, Pixels, Positive, Seed, Workers
from stitching.config.errors import UserError, at
from stitching.config.parts import AssemblyPart, BasePart, ModelFields, NetPart, PartField, ReformatOptions
from stitching.config.paths import resolved_path
from stitching.config.schema import Neutral, Schema, complaint, validated
from stitching.config.yaml import Document, Keys, load_yaml

__all__ = [
    "Job",
    "JobSettings",
    "LRSchedulerArgs",
    "Preprocessing",
    "TaskConfig",
    "TrainConfig",
    "Validation",
    "checkpoints_of",
    "load_job",
    "model_parts",
    "override",
    "project_root",
    "read_job",
]

S = TypeVar("S", bound="JobSettings")


class Preprocessing(Schema):
    """How images become tensors. What is left out is as the data set's registry entry says."""

    image_size: Pixels | None = None
    data_augmentation: Annotated[Literal[True, False, "default", "none"] | None, Neutral("none")] = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    crop_pct: Annotated[float, Field(ge=0.01, le=1)] | None = None
    train_crop: Literal["random_resized", "pad", "none"] | None = None
    channels: Literal[1, 3] | None = None
    mean: Annotated[list[float], Field(min_length=1)] | None = None
    std: Annotated[list[Positive], Field(min_length=1)] | None = None


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


class Metric(Schema):
    """A metric of the network's output, or of the output of a module inside it."""

    metric_fn: str
    metric_fn_args: dict[str, Any] = {}
    output: str | None = None


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
        self.data_preprocessing.data_augmentation = names.get(wanted, wanted)  # type: ignore[assignment,arg-type]
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


class JobSettings(Schema):
    """Everything in a job but its network: what a sweep passes on to every job."""

    reformat_options: ReformatOptions = ReformatOptions()
    data_path: PathText | None = None
    save_dir: PathText | None = None
    metrics_output: str = "result.pkl"
    save_checkpoints: bool = False
    eval_checkpoints: bool = True
    checkpoint_initial_model: bool = False
    checkpoint_minutes: Annotated[float, Field(ge=0, le=10**9)] = 10.0
    test_only: bool = False
    resume_from: PathText | None = None
    load_from: PathText | None = None
    strict_load: bool = True
    start_epoch: Epochs = 0
    print_freq: Count = 10
    workers: Workers | None = None  # processes that load images; None: the CPUs there are, 0 for small sets
    device: str | None = None
    deterministic: bool = False
    unfrozen: bool = False
    verbose: bool = False
    train_config: TrainConfig
    metrics: list[Metric] = [Metric(metric_fn="accuracy")]
    frozen_norm: Literal["running", "batch"] = "running"
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False

    @model_validator(mode="after")
    def _a_name(self) -> Self:
        # Everything else in the folder (checkpoint.pt, metadata.yml, result.parquet ...) has another ending.
        if not re.fullmatch(r"(?!\.)[^/\x00-\x1f\x7f]{1,100}\.pkl", self.metrics_output):
            raise complaint(
                f"metrics_output is {self.metrics_output!r}",
                "the name of a file that ends with .pkl; save_dir says in which folder",
                key="metrics_output",
            )
        return self

    @model_validator(mode="after")
    def _monitor_is_measured(self) -> Self:
        args = self.train_config.lr_scheduler_args
        monitor = args.monitor if args else None
        if monitor and monitor.startswith("Val ") and not self.eval_checkpoints:
            raise complaint(
                f"the schedule monitors {monitor}, and `eval_checkpoints: false` measures it at the end only",
                "eval_checkpoints: true, or a monitor of the training images",
                key="eval_checkpoints",
            )
        scored = any(metric.metric_fn == "accuracy" and metric.output is None for metric in self.metrics)
        if monitor and monitor.endswith("Accuracy") and not scored:
            raise complaint(
                f"the schedule monitors {monitor}", "`metric_fn: accuracy` among the metrics", key="metrics"
            )
        return self

    @property
    def monitor(self) -> str:
        """What ReduceLROnPlateau watches, one of `MONITORS`."""
        config, args = self.train_config, self.train_config.lr_scheduler_args or LRSchedulerArgs()
        has_validation = config.validation and self.eval_checkpoints and args.cadence == "epochs"
        return args.monitor or ("Val Loss" if has_validation else "Train Loss")

    @model_validator(mode="after")
    def _one_checkpoint(self) -> Self:
        if self.resume_from and self.load_from:
            raise complaint("both resume_from and load_from given", "one of them", key="load_from")
        return self


class Job(JobSettings):
    """A whole job."""

    model: PartField | None = None
    assembly: Annotated[list[PartField], Field(min_length=1)] | None = None
    head: PartField | None = None
    reference: PartField | None = None  # a whole network whose predictions those on the test images are compared with

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if (self.model is None) == (self.assembly is None):
            said = "neither" if self.model is None else "both"
            raise complaint(f"{said} of model and assembly given", "exactly one of model, assembly")
        if self.head is not None and self.assembly is None:
            raise complaint(
                "head without assembly",
                "assembly with head, or a head inside `model: {Assembly: ...}`",
                key="head",
            )
        if self.reference is not None and not isinstance(self.reference, NetPart):
            raise complaint(
                f"the reference is a {self.reference.kind}", "a whole network: `Net: {...}`", key="reference"
            )
        if self.reference is not None and len(self.train_config.task_list) > 1:
            raise complaint("a reference, and several tasks", "a reference with one data set", key="reference")
        return self

    @property
    def network(self) -> PartField:
        """The network's one part, whichever form it was written in."""
        if self.model is not None:
            return self.model
        return AssemblyPart(kind="Assembly", parts=self.assembly or [], head=self.head)

    def to_yaml(self) -> dict[str, Any]:
        """The resolved job as plain data, defaults included: enough to run it again."""
        return _without_none(self.model_dump(mode="json"))


# Keys that may stand in two places. What is said in one of them from outside the file wins over both.
_TWINS: list[tuple[tuple[str | int, ...], tuple[str | int, ...]]] = [
    (("train_config", "lr"), ("train_config", "optimizer_args", "lr")),
    (("train_config", "data_augmentation"), ("train_config", "data_preprocessing", "data_augmentation")),
]


def override(document: Document, dotted: str, value: object, said_by: str) -> None:
    """Set a job's key such as `train_config.epochs` from outside its file: the command line, or a sweep's grid."""
    keys = tuple(dotted.split("."))
    for one, other in _TWINS:
        if keys in (one, other):
            document.remove(one)
            document.remove(other)
    document.override(keys, value, said_by)


def read_job(document: Document) -> Job:
    """The document as a job, its relative paths made to start from the document's folder.

    Raises:
        UserError: with file, line and key, if anything is wrong with it.
    """
    return with_paths(validated(Job, document), document)


def load_job(path: str | Path) -> Job:
    """Load a job's YAML file. Raises `UserError` with file, line and key if anything is wrong with it."""
    return read_job(load_yaml(path))


def project_root(folder: Path) -> Path:
    """The checkout that `folder` lies in: the nearest folder above it with `.git` or `experiments`; else itself."""
    folder = folder.resolve()
    return next(
        (at for at in (folder, *folder.parents) if (at / ".git").exists() or (at / "experiments").is_dir()),
        folder,
    )


_NETWORKS = ("model", "assembly", "head", "reference", "models", "stages", "src_stages", "dest_stages")


def with_paths(settings: S, document: Document) -> S:
    """The job's or sweep's settings with every path of its own and of its parts made absolute.

    They start from the folder of the document that the settings were read from.

    Raises:
        UserError: with file, line and key, if one of them is no path.
    """
    folder = document.folder
    settings.data_path = settings.data_path or str(project_root(folder) / "data")
    places: list[tuple[Keys, Any]] = [
        ((name,), settings) for name in ("data_path", "save_dir", "resume_from", "load_from")
    ]
    for name in _NETWORKS:
        places += [((*keys, "ckp_path"), part) for keys, part in _placed_models(getattr(settings, name, None), (name,))]
    for keys, holder in places:
        name = str(keys[-1])
        if value := getattr(holder, name):
            try:
                with at(*keys):
                    setattr(holder, name, str(resolved_path(value, folder)))
            except UserError as error:
                raise document.locate(error) from None
    return settings


def checkpoints_of(job: Job) -> list[str]:
    """The files of weights that a job starts from."""
    found = [part.ckp_path for part in model_parts(job.network, job.reference)] + [job.load_from, job.resume_from]
    return list(dict.fromkeys(path for path in found if path))


def model_parts(*values: Any) -> list[Any]:
    """Every part that names a model, however deeply nested in `values`: parts, lists of parts, or None."""
    return [part for value in values for _, part in _placed_models(value, ())]


def _placed_models(value: Any, keys: Keys) -> Iterator[tuple[Keys, ModelFields]]:
    """The parts that name a model, each with the keys that lead to it in YAML, where `keys` lead to `value`."""
    if isinstance(value, list):
        for i, item in enumerate(value):
            yield from _placed_models(item, (*keys, i))
        return
    below = (*keys, value.kind) if isinstance(value, BasePart) else keys
    if isinstance(value, ModelFields):
        yield below, value
    for name in ("parts", "head"):
        if inner := getattr(value, name, None):
            yield from _placed_models(inner, (*below, name))


def _without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    return [_without_none(item) for item in data] if isinstance(data, list) else data


NestedScheduler.model_rebuild()
