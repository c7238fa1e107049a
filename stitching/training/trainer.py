"""The training loop: n runs over one stream of data, and n = 1 is the ordinary case."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from stitching.config.errors import UserError
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.training.distributed import ProcessGroup
from stitching.training.evaluation import References
from stitching.training.failures import Diverged, cause_of, failure_reason, in_words
from stitching.training.job_data import TaskData
from stitching.training.metrics import Averages
from stitching.training.run import Run
from stitching.training.run_record import record_end
from stitching.training.shared_prefixes import SharedPrefixes

__all__ = ["ProgressCallback", "Trainer"]


# Called with `done` of `total` steps of all runs together, and words for what is going on.
ProgressCallback = Callable[[int, int, str], None]


class Trainer:
    """The loop of `train`, with what it passes around."""

    def __init__(
        self,
        runs: list[Run],
        shared_prefixes: SharedPrefixes,
        references: References,
        data: TaskData,
        device: torch.device,
        progress: ProgressCallback,
        stop: StopRequest,
        world: ProcessGroup,
        *,
        alone: bool,
    ) -> None:
        self.world = world
        self.alone = alone  # whether there is one run, whose failure is its caller's to tell
        self.runs = runs
        self.shared_prefixes = shared_prefixes
        self.references = references
        self.data = data
        self.device = device
        self.progress = progress
        self.stop = stop
        self.saved_at = time.monotonic()
        self.counted_at = time.perf_counter()

    def run(self) -> None:
        try:
            for run in self.runs:
                run.join()
            self._train()
        except Interrupted:
            raise
        except Exception as error:
            self._end_all(error)

    def _train(self) -> None:
        self._test_where(lambda run: run.tests_first, Run.add_initial_test)
        self._end_finished()
        while active := self._active():
            epoch = min(run.epoch for run in active)
            here = [run for run in active if run.epoch == epoch]
            self._train_epoch(epoch, here)
            here = [run for run in here if run.failure is None]
            self._test_where(lambda run, now=here: run in now and run.tests_now, Run.close_epoch)  # type: ignore[misc]
            for run in here:
                if run.epoch == epoch and run.failure is None:
                    with self._failing_alone(run):
                        run.close_epoch({})
                if run.failure is None and not run.finished:
                    with self._failing_alone(run):
                        run.save_result()
                        run.save()
            self._end_finished()

    def _active(self) -> list[Run]:
        return [run for run in self.runs if run.failure is None and not run.finished]

    def _train_epoch(self, epoch: int, runs: list[Run]) -> None:
        """The rest of an epoch: a run whose place is further on waits for the others to come there."""
        start, end = min(run.batch for run in runs), max(run.batches_in_epoch for run in runs)
        if start >= end:
            return
        began = time.perf_counter()
        for index, batch in enumerate(self.data.epoch(epoch, start), start):
            placed = [self._placed(images, labels) for images, labels in batch]
            data_seconds = time.perf_counter() - began
            due = [run for run in runs if run.failure is None and run.batch == index < run.batches_in_epoch]
            self._step(due, placed, data_seconds)
            self._count_time(due)
            self._checkpoint_or_stop(save=time.monotonic() - self.saved_at > 60 * self.runs[0].job.checkpoint_minutes)
            if not any(run.failure is None and index + 1 < run.batches_in_epoch for run in runs):
                return
            began = time.perf_counter()

    def _step(self, due: list[Run], batch: list[tuple[Tensor, Tensor]], data_seconds: float) -> None:
        began = time.perf_counter()
        features = [self._features(due, images) for images, _ in batch]
        labels = [y for _, y in batch]
        sharing = max(1, sum(run.front is not None for run in due))
        front_seconds = (time.perf_counter() - began) / sharing
        for run in due:
            with self._failing_alone(run):
                inputs = [
                    found[run.front.spec, run.front.end.index] if run.front else found[None] for found in features
                ]
                run.train_step(
                    inputs,
                    labels,
                    data_seconds=data_seconds,
                    front_seconds=front_seconds if run.front else 0.0,
                )
            self._tell(run, f"epoch {run.epoch}")

    def _test_where(self, due: Callable[[Run], bool], done: Callable[[Run, dict[str, float]], None]) -> None:
        """Test those runs that `due` picks on all test and validation images, and hand each what came of it."""
        runs = [run for run in self._active() if due(run)]
        if not runs:
            return
        found: list[dict[str, float]] = [{} for _ in runs]
        for split, sets in self.data.tests:
            averages = [Averages() for _ in runs]
            for task, batches in enumerate(sets):
                for images, labels in batches.epoch(0):
                    if all(run.failure for run in runs):
                        return
                    self._test_batch(runs, averages, images, labels, task, compares=split == "Test")
                    self._count_time(runs)
                    self._checkpoint_or_stop()
                self._tell(runs[0], "testing")
            for values, average in zip(found, averages, strict=True):
                values |= {f"Overall/{split} {name}": value for name, value in average.means().items()}
        for run, values in zip(runs, found, strict=True):
            if run.failure is None:
                with self._failing_alone(run):
                    done(run, values)

    def _test_batch(
        self, runs: list[Run], averages: list[Averages], images: Tensor, labels: Tensor, task: int, *, compares: bool
    ) -> None:
        x, y = self._placed(images, labels)
        features = self._features(runs, x)
        wanted = [run.reference if compares else None for run in runs]
        with self._autocast():
            scores = self.references(x, wanted)
        for run, average, reference in zip(runs, averages, wanted, strict=True):
            if run.failure is None:
                with self._failing_alone(run):
                    inputs = features[run.front.spec, run.front.end.index] if run.front else features[None]
                    run.test_batch(inputs, y, task, average, scores.get(reference))

    def _count_time(self, runs: list[Run]) -> None:
        """Share the time since the last count among the runs that it was spent on."""
        now = time.perf_counter()
        for run in runs:
            run.seconds += (now - self.counted_at) / len(runs)
        self.counted_at = now

    def _features(self, runs: list[Run], images: Tensor) -> dict[Any, Tensor]:
        """What each front makes of the images; the images themselves under None."""
        wanted = {(run.front.spec, run.front.end.index) for run in runs if run.front}
        with self._autocast():
            return {None: images, **(self.shared_prefixes(images, wanted) if wanted else {})}

    def _autocast(self) -> torch.autocast:
        bf16 = self.runs[0].job.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _placed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        layout = torch.channels_last if self.runs[0].job.channels_last else torch.preserve_format
        return (
            images.to(self.device, non_blocking=True, memory_format=layout),
            labels.to(self.device, non_blocking=True),
        )

    @contextmanager
    def _failing_alone(self, run: Run) -> Iterator[None]:
        """A run that raises is recorded as failed and gives its memory back; the only one raises further.

        Of several processes none can go on without the others, unless they all raise this.
        """
        try:
            yield
        except Exception as error:
            if self.world.size > 1 and not isinstance(error, Diverged):
                raise
            self._record_failure(run, error)
            if self.alone:
                raise in_words(error)  # noqa: B904 - what it was raised for is its context

    def _end_all(self, error: Exception) -> None:
        """Record what ends the loop for every run in it. Of several processes, the first to get here does."""
        if self.world.size > 1 and not self.world.first_to_tell():
            raise SystemExit(1) from None
        if isinstance(error, torch.distributed.DistError) or "gloo/" in str(error):
            error = UserError("another process of the job was lost", do="Its output may say why; then resume.")
        for run in self.runs:
            if run.failure is not None or run.ended:
                continue
            if self.world.size == 1:
                # What fails outside of a run's own work fails between two of its steps.
                with suppress(Exception):
                    run.save()
            run.writes = True  # the first process waits for this one, or is gone
            self._record_failure(run, error)
        if self.alone:
            raise in_words(error)

    def _record_failure(self, run: Run, error: Exception) -> None:
        run.failure, run.cause = failure_reason(error), cause_of(error)
        details = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error)).rstrip()
        with suppress(OSError):  # the disk may be what failed
            run.say(f"failed: {run.failure}{details}")
        with suppress(OSError, UserError):
            record_end(run, "failed")
        run.release()

    def _checkpoint_or_stop(self, *, save: bool = False) -> None:
        """Between two steps: stop if a process was asked to, `save` if it is time for the first one."""
        asked, number, save_now = self.world.highest(
            [self.stop.asked, self.stop.number or 0, save and self.world.is_first]
        )
        if asked:
            self.stop.asked, self.stop.number = True, int(number) or None
        if asked or save_now:
            self._save_all()

    def _save_all(self) -> None:
        """A checkpoint of every run; and if a stop was asked for, the stop."""
        for run in self._active():
            with self._failing_alone(run):
                run.save()
        self.saved_at = time.monotonic()
        if self.stop.asked:
            for run in self._active():
                run.say(f"stopped at epoch {run.epoch}, step {run.step}")
                record_end(run, "stopped")
            self.world.highest([0])  # whoever ends now ends the others
            raise Interrupted

    def _end_finished(self) -> None:
        """Write the final result of runs that have come to their end; then, and only then, drop their checkpoint."""
        for run in self.runs:
            if run.failure is not None or run.ended or not run.finished:
                continue
            with self._failing_alone(run):
                run.save_result()
                if run.job.save_checkpoints:
                    run.save(whole=True)
                record_end(run, "done")
                if run.writes and not run.job.save_checkpoints:
                    run.folder.checkpoint.unlink(missing_ok=True)
                if run.writes:
                    run.folder.previous_checkpoint.unlink(missing_ok=True)
                run.ended = True
            self._tell(run, "done" if run.ended else "failed")

    def _tell(self, run: Run, words: str) -> None:
        total = sum(each.total_steps for each in self.runs)
        accuracy = next((value for key, value in run.final.items() if "Test" in key and "Accuracy" in key), None)
        shown = f"{run.name}: {words}" + (f", test accuracy {accuracy:.3f}" if accuracy is not None else "")
        self.progress(sum(each.step for each in self.runs), total, shown)
