"""The training loop: n runs over one stream of data, and n = 1 is the ordinary case."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from stitching.runs.kinds import RunOptions
from stitching.runs.stopping import Interrupted
from stitching.training.devices import Stopwatch
from stitching.training.evaluation import Evaluation
from stitching.training.failure_handler import FailureHandler
from stitching.training.loop_context import LoopContext
from stitching.training.run import Run
from stitching.training.run_record import record_end
from stitching.training.saving import end_run, save_checkpoint, save_result
from stitching.training.shared_networks import SharedNetworks
from stitching.training.step_recorder import StepTimes

__all__ = ["Trainer"]


class Trainer:
    """The loop over epochs and batches.

    Args:
        runs: their folders are locked, and their checkpoints loaded.
        networks: the frozen networks that they share.
        context: their data, device and processes.
        options: how they report and stop.
    """

    def __init__(self, runs: list[Run], networks: SharedNetworks, context: LoopContext, options: RunOptions) -> None:
        self.runs = runs
        self.networks = networks
        self.context = context
        self.options = options
        self.failures = FailureHandler(context.world)
        self.evaluate = Evaluation(
            context, networks, self.failures, self._after_test_batch, lambda runs: self._show(runs[0], "testing")
        )
        self.saved_at = time.monotonic()
        self.counted_at = time.perf_counter()

    def run(self, *, raises_failure: bool = False) -> None:
        """Train every run to its end, or to its failure.

        Args:
            raises_failure: also raise the failure of a run, which is recorded in any case.

        Raises:
            Interrupted: a stop was requested; every run has a checkpoint.
        """
        self.failures.raises = raises_failure
        try:
            for run in self.runs:
                if not run.only_tests:
                    run.learner.join_processes()
            untrained = [run for run in _active(self.runs) if run.tests_first]
            for run, values in self.evaluate(untrained).items():
                with self.failures.isolate(run):
                    run.add_initial_test(values)
            self._train()
        except Interrupted:
            raise
        except Exception as error:
            self.failures.end_all(self.runs, error)

    def _train(self) -> None:
        self._end_finished()
        while active := _active(self.runs):
            epoch = min(run.position.epoch for run in active)
            in_epoch = [run for run in active if run.position.epoch == epoch]
            self._train_epoch(epoch, in_epoch)
            results = self.evaluate([run for run in _active(in_epoch) if run.tests_after_epoch])
            for run in _active(in_epoch):
                with self.failures.isolate(run):
                    run.end_epoch(results.get(run, {}))
                    if not run.finished:
                        save_result(run)
                        save_checkpoint(run)
            self._end_finished()

    def _train_epoch(self, epoch: int, runs: Sequence[Run]) -> None:
        """Train the rest of an epoch; a run that is ahead waits until the others are at its batch."""
        in_training = [run for run in runs if not run.position.epoch_is_trained]
        if not in_training:
            return
        start = min(run.position.batch for run in in_training)
        began = time.perf_counter()
        for index, batch in enumerate(self.context.data.epoch(epoch, start), start):
            on_device = [self.context.on_device(images, labels) for images, labels in batch]
            data_seconds = time.perf_counter() - began
            due = [run for run in in_training if run.position.due(index)]
            self._step(due, on_device, data_seconds)
            self._count_time(due)
            self._checkpoint_or_stop()
            in_training = [run for run in in_training if run.failure is None and not run.position.epoch_is_trained]
            if not in_training:
                return
            began = time.perf_counter()

    def _step(self, due: Sequence[Run], batch: Sequence[tuple[Tensor, Tensor]], data_seconds: float) -> None:
        """One step of every run that is due, on a batch of each task."""
        stopwatch = Stopwatch(self.context.device)
        features = [self.networks.features(due, images) for images, _ in batch]
        teachers = self.networks.scores(batch[0][0], [run.teacher for run in due if run.teacher])
        stopwatch.stop()
        sharing = sum(run.uses_shared_networks for run in due)
        labels = [y for _, y in batch]
        for run in due:
            with self.failures.isolate(run):
                inputs = [task_features.of(run.front) for task_features in features]
                times = StepTimes(data_seconds, stopwatch, sharing if run.uses_shared_networks else 0)
                run.train_step(inputs, labels, teachers.get(run.teacher), times)
            self._show(run, f"epoch {run.position.epoch}")

    def _after_test_batch(self, runs: Sequence[Run]) -> None:
        self._count_time(runs)
        self._checkpoint_or_stop(in_test=True)

    def _count_time(self, runs: Sequence[Run]) -> None:
        """Share the time since the last count among the runs that it was spent on."""
        now = time.perf_counter()
        for run in runs:
            run.seconds += (now - self.counted_at) / len(runs)
        self.counted_at = now

    def _checkpoint_or_stop(self, *, in_test: bool = False) -> None:
        """Stop if any process was asked to; after a training step, save if the first process finds that it is time."""
        world, stop = self.context.world, self.options.stop
        is_time = time.monotonic() - self.saved_at > 60 * self.runs[0].job.checkpoint_minutes
        stops, signal, saves = world.highest([stop.asked, stop.number or 0, is_time and world.is_first and not in_test])
        if stops:
            stop.asked, stop.number = True, int(signal) or None
        if not (stops or saves):
            return
        for run in _active(self.runs):
            with self.failures.isolate(run):
                save_checkpoint(run)
        self.saved_at = time.monotonic()
        if not stops:
            return
        for run in _active(self.runs):
            run.say(f"stopped at epoch {run.position.epoch}, step {run.step}")
            record_end(run, "stopped")
        world.highest([0])  # wait for all: a process that ends now would end the others
        raise Interrupted

    def _end_finished(self) -> None:
        """Write the results of the runs that are finished."""
        for run in self.runs:
            if run.failure is not None or run.ended or not run.finished:
                continue
            with self.failures.isolate(run):
                end_run(run)
            self._show(run, "done" if run.ended else "failed")

    def _show(self, run: Run, activity: str) -> None:
        if not self.context.world.is_first:
            return
        accuracy = next((value for key, value in run.final.items() if "Test" in key and "Accuracy" in key), None)
        shown = f"{run.name}: {activity}" + (f", test accuracy {accuracy:.3f}" if accuracy is not None else "")
        total = sum(run.position.total_steps for run in self.runs)
        self.options.on_progress(sum(run.step for run in self.runs), total, shown)


def _active(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.is_active]
