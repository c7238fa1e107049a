"""The rows of a run's steps: numbers stay on the device until those of many steps are fetched at once."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import psutil
import torch

from stitching.runs.step_log import StepLog
from stitching.training.batch_values import Averages, BatchValues, FetchedValues, fetch
from stitching.training.devices import Stopwatch
from stitching.training.failures import Diverged
from stitching.training.loop_context import LoopContext

__all__ = ["PendingStep", "StepRecorder", "StepTimes"]

STEPS_BEFORE_FETCH = {"cuda": 50}  # by kind of device: fetching a number from a GPU waits for all work before it


@dataclass(frozen=True)
class StepTimes:
    """The time of a step that was spent outside of the run: on loading, and on what several runs share."""

    data_seconds: float
    shared: Stopwatch
    sharing: int  # how many runs share that time; 0 if this one does not

    @property
    def shared_seconds(self) -> float:
        return self.shared.seconds / self.sharing if self.sharing else 0.0


@dataclass
class PendingStep:
    """A step whose loss and metrics are still on the device."""

    row: dict[str, float]  # its columns that need no fetching
    values: BatchValues
    stopwatch: Stopwatch
    times: StepTimes


class StepRecorder:
    """The rows of a run, and the averages of its current epoch.

    `Time/Step` is what a step took on the device: on a GPU, whose work is queued, the time between two marks in its
    queue. The step's share of what several runs compute together is in it.
    """

    def __init__(self, context: LoopContext) -> None:
        self.context = context
        self.log = StepLog()
        self.averages = Averages()
        self.epoch_seconds = 0.0
        self._pending: list[PendingStep] = []

    def add(self, step: PendingStep) -> None:
        """Record a step; its numbers are fetched later."""
        self._pending.append(step)

    @property
    def should_fetch(self) -> bool:
        """Whether enough steps are waiting to be fetched."""
        return len(self._pending) >= STEPS_BEFORE_FETCH.get(self.context.device.type, 1)

    def fetch(self) -> list[dict[str, float]]:
        """Wait for the device and log all steps; returns their rows.

        Raises:
            Diverged: a loss is no finite number; the rows before that step are logged.
        """
        pending, self._pending = self._pending, []
        rows: list[dict[str, float]] = []
        for step, values in zip(pending, fetch([step.values for step in pending], self.context.world), strict=True):
            if not math.isfinite(values.loss):
                raise Diverged(int(step.row["Step"]), values.loss)
            rows.append(self._row(step, values))
            self.log.add(rows[-1])
        return rows

    def _row(self, step: PendingStep, values: FetchedValues) -> dict[str, float]:
        row = step.row | {"Loss": values.loss}
        for name, (value, count) in values.sums.items():
            row[name] = value / count
            self.averages.add(name, value, count)
        self.averages.add("Loss", values.loss * values.count, values.count)
        seconds = step.stopwatch.seconds + step.times.shared_seconds
        self.epoch_seconds += seconds + step.times.data_seconds
        return row | {
            "Time/Data": step.times.data_seconds,
            "Time/Step": seconds,
            "Time/Img Per Sec": values.count / seconds,
        } | _memory(self.context.device)  # fmt: skip

    def end_epoch(self, tested: dict[str, float]) -> dict[str, float]:
        """Add the epoch's averages and its test results to its last row; returns both by column."""
        values = {f"Overall/Train {name}": value for name, value in self.averages.means().items()} | tested
        self.log.extend_last(values | {"Time/Per Epoch": self.epoch_seconds})
        self.averages = Averages()
        self.epoch_seconds = 0.0
        return values

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint, once all steps are fetched."""
        assert not self._pending
        return {
            "epoch_seconds": self.epoch_seconds,
            "averages": self.averages.state(),
            "rows": self.log.rows,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a checkpoint's state."""
        self.epoch_seconds = state["epoch_seconds"]
        self.averages = Averages(**state["averages"])
        self.log = StepLog(state["rows"])


def _memory(device: torch.device) -> dict[str, float]:
    """Memory in GB: of this process, and the peak on the GPU."""
    used = {"Proc Mem": _process(os.getpid()).memory_info().rss / 1e9}
    if device.type == "cuda":
        used["GPU Mem"] = torch.cuda.max_memory_allocated(device) / 1e9
    return used


@lru_cache(maxsize=1)
def _process(number: int) -> psutil.Process:
    return psutil.Process(number)
