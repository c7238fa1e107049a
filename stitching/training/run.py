"""One training: its steps, its measurements, and its state."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stitching.config.job_config import Job
from stitching.cutting.cost import Cost
from stitching.data.loading import derive_seed
from stitching.nets.network import Network
from stitching.runs.causes import ERROR
from stitching.runs.folder import RunFolder, Traces
from stitching.runs.identity import identity
from stitching.runs.step_log import StepLog
from stitching.training.batch_values import BatchValues
from stitching.training.devices import Stopwatch
from stitching.training.failures import Diverged, free_memory
from stitching.training.learner import Learner
from stitching.training.loop_context import LoopContext
from stitching.training.position import Position
from stitching.training.shared_prefixes import FrozenPrefix
from stitching.training.step_recorder import PendingStep, StepRecorder, StepTimes

__all__ = ["Run"]


@dataclass(eq=False)
class Run:
    """One training of one network, a step at a time.

    Every random number of a step comes from (seed, step), so neither other runs in the process nor a restart can change
    it. Where several processes train, each has a share of the batches, and all have the same losses, metrics and
    weights.
    """

    job: Job
    folder: RunFolder
    context: LoopContext
    learner: Learner
    position: Position
    cost: Cost
    reference: str | None = None  # the keys of networks that this one is compared with, and learns from
    teacher: str | None = None
    notes: list[str] = field(default_factory=list)  # for the log, once there is one

    def __post_init__(self) -> None:
        self.identity = identity(self.job)
        self.writes = self.context.world.is_first
        self.recorder = StepRecorder(self.context)
        self.tested_initially = False
        self.seconds = 0.0  # its share of the loop's time, tests included, in all its starts
        self.failure: str | None = None
        self.cause = ERROR  # of the failure
        self.ended = False
        self.metadata: dict[str, Any] = {}  # as it was written when the run started
        self.traces: Traces = {}  # of the folder then
        self.digests: dict[str, str] = {}  # of the result's files as they were last written
        self.final: dict[str, float] = {}  # the averages of the newest epoch that was tested, by column

    # ---------------------------------------------------------------- state

    @property
    def name(self) -> str:
        return self.folder.path.resolve().name

    @property
    def seed(self) -> int:
        return self.job.train_config.seed

    @property
    def step(self) -> int:
        """The number of steps done."""
        return self.position.step

    @property
    def log(self) -> StepLog:
        """The rows of its steps."""
        return self.recorder.log

    @property
    def network(self) -> Network:
        return self.learner.network

    @property
    def front(self) -> FrozenPrefix | None:
        return self.learner.front

    @property
    def uses_shared_networks(self) -> bool:
        """Whether part of its steps is computed together with those of other runs."""
        return self.front is not None or self.teacher is not None

    @property
    def only_tests(self) -> bool:
        """Whether there is nothing to train."""
        return not self.position.trains

    @property
    def tests_first(self) -> bool:
        """Whether the untrained network is still to be tested."""
        return (self.only_tests or self.job.checkpoint_initial_model) and not self.tested_initially

    @property
    def tests_after_epoch(self) -> bool:
        """Whether the epoch that was just trained is followed by a test."""
        return self.position.is_in_last_epoch or self.job.eval_checkpoints

    @property
    def finished(self) -> bool:
        return not self.tests_first and self.position.finished

    @property
    def is_active(self) -> bool:
        """Whether there is something left to do."""
        return self.failure is None and not self.finished

    # ---------------------------------------------------------------- training

    def train_step(self, inputs: list[Tensor], labels: list[Tensor], teacher: Tensor | None, times: StepTimes) -> None:
        """One step on a batch.

        Args:
            inputs: of each task the images, or their features from the shared front.
            labels: of each task.
            teacher: scores (N, classes) of the network that this one learns from.
            times: of the step, spent outside of the run.

        Raises:
            Diverged: the loss of this step, or of one before it, is no finite number.
        """
        stopwatch = Stopwatch(self.context.device)
        world = self.context.world
        process = (world.rank,) if world.size > 1 else ()  # dropout differs between processes, as their images do
        torch.manual_seed(derive_seed(self.seed, "step", self.step, *process))
        row = {"Step": self.step + 1, "Epoch": self.position.epoch, "LR": self.learner.lr}
        values = self.learner.train_step(inputs, labels, teacher)
        stopwatch.stop()
        self.recorder.add(PendingStep(row, values, stopwatch, times))
        ends_epoch = self.position.is_at_last_batch
        self.position.advance()
        if self.learner.needs_loss_each_step:
            (row,) = self.fetch()
            self.learner.advance("steps", row["Loss"])
            return
        self.learner.advance("steps", None)
        if ends_epoch or self.recorder.should_fetch:
            self.fetch()

    def fetch(self) -> list[dict[str, float]]:
        """Get the rows of all steps from the device, and log them.

        Raises:
            Diverged: a loss is no finite number; the run is then where it was before that step.
        """
        try:
            rows = self.recorder.fetch()
        except Diverged as error:
            self.position.go_back_to(error.step - 1)
            raise
        for row in rows if self.job.verbose else ():
            if row["Step"] % self.job.print_freq == 0:
                self.say(f"epoch {row['Epoch']}, step {row['Step']}, loss {row['Loss']:.4f}, lr {row['LR']:.3g}")
        return rows

    def eval_step(self, x: Tensor, labels: Tensor, task: int, reference: Tensor | None = None) -> BatchValues:
        """Loss and metrics of a test batch of one task; with the reference's scores, their agreement, too."""
        return self.learner.eval_step(x, labels, task, reference)

    def end_epoch(self, tested: dict[str, float]) -> None:
        """End an epoch whose batches are all trained, with its test results by column."""
        values = self.recorder.end_epoch(tested)
        self.final = values if tested else self.final
        self.learner.advance("epochs", self._monitored(values))
        self.position.next_epoch()
        self._say_values(f"epoch {self.position.epoch - 1}", values)

    def add_initial_test(self, values: dict[str, float]) -> None:
        """Log the test results of the untrained network, as step 0."""
        self.log.add({"Step": 0, "Epoch": 0, "Loss": math.nan, "LR": math.nan, **values})
        self.tested_initially = True
        self.final = values
        self._say_values("before training", values)

    def _monitored(self, values: dict[str, float]) -> float:
        """The number that ReduceLROnPlateau watches, of several tasks the sum of their losses."""
        split, name = self.job.monitor.split()
        tasks = [""] if f"Overall/{split} {name}" in values else [f"{task}/" for task in self.context.data.names]
        return sum(values[f"Overall/{split} {task}{name}"] for task in tasks)

    # ---------------------------------------------------------------- saving and resuming

    def state(self, *, whole: bool = False) -> dict[str, Any]:
        """Plain data for a checkpoint, once all steps are fetched; `whole` adds the frozen parts."""
        return {
            "identity": self.identity,
            "config": self.job.to_yaml(),
            "place": {**self.position.state(), "tested": self.tested_initially},
            "seconds": self.seconds,
            "final": self.final,
            **self.recorder.state(),
            **self.learner.state(whole=whole),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state; raises any exception if something in it is missing or wrong."""
        self.learner.restore(state)
        self.position.restore(state["place"])
        self.tested_initially = state["place"]["tested"]
        self.recorder.restore(state)
        self.seconds = state.get("seconds", 0.0)
        self.final = state["final"]

    def release(self) -> None:
        """Free the memory of a run that has failed; its job, folder and failure stay."""
        for name in ("learner", "recorder"):
            self.__dict__.pop(name, None)
        free_memory()

    # ---------------------------------------------------------------- its log

    def say(self, message: str) -> None:
        """Add a line to the run's log. If the disk is full the line is printed, and the run continues."""
        if not self.writes:
            return
        try:
            with open(self.folder.log, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {message}\n")
        except OSError as error:
            print(f"cannot write to {self.folder.log} ({error.strerror}): {message}", file=sys.stderr, flush=True)

    def _say_values(self, moment: str, values: dict[str, float]) -> None:
        named = {name.removeprefix("Overall/"): value for name, value in values.items()}
        self.say(", ".join([moment, *(f"{name} {value:.4f}" for name, value in named.items())]))
        if broken := [name for name, value in named.items() if not math.isfinite(value)]:
            self.say(
                f"warning: {', '.join(broken)} not finite. Images whose scores are not finite count as predicted "
                "wrong, and as agreeing with no other network"
            )
