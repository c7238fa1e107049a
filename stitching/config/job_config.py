"""The schema of a job: one network, one data set, one training."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stitching.config.bounds import Count, Epochs, PathText, Workers
from stitching.config.format_syntax import ReformatOptions
from stitching.config.parts import PARTS, PartField
from stitching.config.schema import Schema, complaint
from stitching.config.train_config import LRSchedulerArgs, TrainConfig

__all__ = ["Job", "JobSettings", "Metric"]


class Metric(Schema):
    """A metric of the network's output, or of the output of a module inside it."""

    metric_fn: str
    metric_fn_args: dict[str, Any] = {}
    output: str | None = None


class JobSettings(Schema):
    """Everything in a job but its network: what a sweep passes on to every job."""

    plugins: list[PathText] = []
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

    def to_yaml(self) -> dict[str, Any]:
        """The resolved job as plain data, defaults included: enough to run it again."""
        return _without_none(self.model_dump(mode="json"))


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
        if self.reference is not None and not self.reference.is_whole_model:
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
        return PARTS["Assembly"](parts=self.assembly or [], head=self.head)  # type: ignore[call-arg]


def _without_none(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    return [_without_none(item) for item in data] if isinstance(data, list) else data
