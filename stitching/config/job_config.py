"""The schema of a job: one network, one data set, one training."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stitching.config.bounds import Count, Epochs, PathText, Workers
from stitching.config.format_syntax import ReformatOptions
from stitching.config.objective_schema import ObjectiveField
from stitching.config.parts import PARTS, BasePart, PartField
from stitching.config.published import with_published_defaults
from stitching.config.registries import NameIn
from stitching.config.schema import Schema, complaint, one_of
from stitching.config.train_config import LRSchedulerArgs, TrainConfig

__all__ = ["Job", "JobSettings", "Metric"]


class Metric(Schema):
    """A metric of the network's output, or of the output of a module inside it."""

    metric_fn: Annotated[str, NameIn("stitching.training.metrics:METRICS")]
    """Name of the metric, one of ours or of a plugin."""
    metric_fn_args: dict[str, Any] = {}
    """Its arguments, such as `topk: [1, 5]`."""
    output: str | None = None
    """Name of the module or value whose output is measured; by default the network's own."""


class JobSettings(Schema):
    """Everything in a job except its network: what a sweep passes on to every job."""

    plugins: list[PathText] = []
    """Python files of your own, relative to this file, or installed modules. They are imported first, and may register
    parts, data sets, losses, metrics, objectives, stitchers and model sources. Their code is part of a run's
    identity.
    """
    reformat_options: ReformatOptions = ReformatOptions()
    """How formats are converted between parts, where there is a choice."""
    data_path: PathText | None = None
    """Folder that data sets are in. By default data/ at the root of the checkout."""
    save_dir: PathText | None = None
    """Folder for what the job leaves. By default the folder of its config; of a sweep, experiments/PROJECT."""
    metrics_output: str = "result.pkl"
    """File name of the table with a row for each step, in `save_dir`."""
    save_checkpoints: bool = False
    """Keep the last checkpoint when the run is done."""
    eval_checkpoints: bool = True
    """Test after every epoch; else at the end only."""
    checkpoint_initial_model: bool = False
    """Also test the network before its first step: step 0 of epoch 0 in the table."""
    checkpoint_minutes: Annotated[float, Field(ge=0, le=10**9)] = 10.0
    """Minutes between checkpoints, from which a run that is killed resumes."""
    test_only: bool = False
    """Test the network, and train nothing."""
    resume_from: PathText | None = None
    """Checkpoint of a run to resume, at the step where it was saved."""
    load_from: PathText | None = None
    """Checkpoint whose weights the network starts from."""
    load_head_from: PathText | None = None
    """Checkpoint whose head the network's head starts from: its last part, or the classifier of a whole model.
    `load_from`, if given, is for what is before it.
    """
    strict_load: bool = True
    """With `load_from`: every weight must be in the file. `false` loads those that fit."""
    start_epoch: Epochs = 0
    """Number of the first epoch; those before it count as done."""
    print_freq: Count = 10
    """With `verbose`: steps between two lines of the log."""
    workers: Workers | None = None
    """Processes that load images. By default one for each CPU, up to 16; none for sets that fit in 256 MiB as tensors.
    The results are the same with any number.
    """
    device: str | None = None
    """`cpu`, `cuda` or `cuda:1`. By default a GPU if there is one."""
    deterministic: bool = False
    """Use deterministic algorithms only: bit for bit the same on the same machine, and slower."""
    unfrozen: bool = False
    """Train all parts, also those with `frozen: true`."""
    verbose: one_of(text=bool, number=Annotated[int, Field(ge=0, le=3)]) = False  # type: ignore[valid-type]
    """Also log the loss within epochs: `true`, or 1 to 3, which are the same here; 0 is `false`."""
    train_config: TrainConfig
    """Data set, loss, optimizer, schedule and length of the training."""
    objective: ObjectiveField | None = None
    """What the trained parts learn from: `labels` (the default), or another network: `distill`."""
    metrics: list[Metric] = [Metric(metric_fn="accuracy")]
    """What is measured of the batches and of the test images."""
    frozen_norm: Literal["running", "batch"] = "running"
    """Statistics that BatchNorm layers in frozen parts use while training. `running`: those that they have. `batch`:
    those of the batch, and the running ones move, as in much published work.
    """
    adapter_init: Literal["default", "published"] = "default"
    """Weights that convolutions and linear layers of adapters start with. `default`: torch's. `published`: Kaiming's
    normal distribution by the fan out. Blocks of transformers have their own in both.
    """
    published: bool = False
    """Do what published sweeps did where nothing else is said: `optimizer: Adam`; in `data_preprocessing` `resize_mode:
    squash` and, unless augmentation is turned off, `train_crop: random_resized` with `random_resize_scale: [0.9, 1]`;
    and one group for `norm_type: gn`.
    """
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of training and tests: 32-bit floats, or mixed with bfloat16."""
    channels_last: bool = False
    """Keep images in memory with their channels last: faster on some GPUs."""
    compile: bool = False
    """Compile the network with `torch.compile`."""

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, data: Any) -> Any:
        return with_published_defaults(data)

    @model_validator(mode="after")
    def _a_name(self) -> Self:
        # All other files of a run (checkpoint.pt, metadata.yml, result.parquet ...) have other endings.
        if not re.fullmatch(r"(?!\.)[^/\x00-\x1f\x7f]{1,100}\.pkl", self.metrics_output):
            raise complaint(
                f"metrics_output is {self.metrics_output!r}",
                "the name of a file that ends with .pkl; save_dir says in which folder",
                key="metrics_output",
            )
        return self

    @model_validator(mode="after")
    def _monitor_is_measured_in_time(self) -> Self:
        args = self.train_config.lr_scheduler_args
        monitor = args.monitor if args else None
        if monitor and monitor.startswith("Val ") and not self.eval_checkpoints:
            raise complaint(
                f"the schedule monitors {monitor}, and `eval_checkpoints: false` measures it at the end only",
                "eval_checkpoints: true, or a monitor of the training images",
                key="eval_checkpoints",
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
        for key in ("load_from", "load_head_from"):
            if self.resume_from and getattr(self, key):
                raise complaint(f"both resume_from and {key} given", "one of them", key=key)
        return self

    @model_validator(mode="after")
    def _objective_of_one_task(self) -> Self:
        if self.objective is not None and len(self.train_config.task_list) > 1:
            raise complaint(
                f"the objective is {self.objective.registered_name}, and there are several tasks",
                "labels, or one data set",
                key="objective",
            )
        return self

    def to_yaml(self) -> dict[str, Any]:
        """The resolved job as plain data, defaults included: enough to run it again."""
        return _without_none(self.model_dump(mode="json"))


class Job(JobSettings):
    """A whole job."""

    model: PartField | None = None
    """The network: one part."""
    assembly: Annotated[list[PartField], Field(min_length=1)] | None = None
    """The network as a list of parts in a row; older form of `model: {Assembly: ...}`."""
    head: PartField | None = None
    """With `assembly`: the part behind it."""
    project: Annotated[str, Field(min_length=1)] | None = None
    """Name of the project that the job is of, for its metadata."""
    reference: PartField | None = None
    """A whole network (`Net`) whose predictions on the test images are compared with the job's: agreement and KL
    divergence.
    """

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
        if self.reference is not None and not self.reference.is_whole_model:
            raise complaint(
                f"the reference is a {self.reference.kind}", "a whole network: `Net: {...}`", key="reference"
            )
        if self.reference is not None and len(self.train_config.task_list) > 1:
            raise complaint("a reference, and several tasks", "a reference with one data set", key="reference")
        return self

    @model_validator(mode="after")
    def _a_teacher(self) -> Self:
        if self.lacks_teacher:
            assert self.objective is not None
            raise complaint(
                f"{self.objective.registered_name} has no teacher",
                "`teacher:`, the name of a network; or a `reference:`",
                key="objective",
            )
        return self

    @property
    def teacher(self) -> BasePart | None:
        """The network that the objective needs beside the trained one."""
        return self.objective.teacher_part(self.reference) if self.objective else None

    @property
    def lacks_teacher(self) -> bool:
        """Whether the objective needs such a network, and there is none."""
        return self.objective is not None and self.objective.needs_teacher and self.teacher is None

    @property
    def network(self) -> PartField:
        """The network's one part, whichever form it was written in."""
        if self.model is not None:
            return self.model
        return PARTS["Assembly"](parts=self.assembly or [], head=self.head)  # type: ignore[call-arg]


def _without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    return [_without_none(item) for item in data] if isinstance(data, list) else data
