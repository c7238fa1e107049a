"""Tests of several runs at once, on all test and validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from stitching.data.loading import Batches
from stitching.training.batch_values import Averages, BatchValues, fetch
from stitching.training.failure_handler import FailureHandler
from stitching.training.loop_context import LoopContext
from stitching.training.run import Run
from stitching.training.shared_networks import SharedNetworks

__all__ = ["Evaluation"]


class Evaluation:
    """Tests runs that share a loop; what several of them share is computed once.

    Args:
        after_batch: called with the runs after each batch; may raise to stop.
        after_set: called with the runs after each data set.
    """

    def __init__(
        self,
        context: LoopContext,
        networks: SharedNetworks,
        failures: FailureHandler,
        after_batch: Callable[[Sequence[Run]], object],
        after_set: Callable[[Sequence[Run]], object],
    ) -> None:
        self.context = context
        self.networks = networks
        self.failures = failures
        self.after_batch = after_batch
        self.after_set = after_set

    def __call__(self, runs: Sequence[Run]) -> dict[Run, dict[str, float]]:
        """The averages of each run by column; none of a run that failed."""
        if not runs:
            return {}
        results: dict[Run, dict[str, float]] = {run: {} for run in runs}
        for split, sets in self.context.data.tests:
            averages = {run: Averages() for run in runs}
            for task, batches in enumerate(sets):
                self._test(batches, task, averages, compares=split == "Test")
                if all(run.failure for run in runs):
                    return {}
                self.after_set(runs)
            for run, average in averages.items():
                results[run] |= {f"Overall/{split} {name}": value for name, value in average.means().items()}
        return {run: values for run, values in results.items() if run.failure is None}

    def _test(self, batches: Batches, task: int, averages: dict[Run, Averages], *, compares: bool) -> None:
        """Test the runs on one data set, and add the results to their averages."""
        values: dict[Run, list[BatchValues]] = {run: [] for run in averages}
        for images, labels in batches.epoch(0):
            runs = [run for run in averages if run.failure is None]
            if not runs:
                return
            self._test_batch(runs, self.context.on_device(images, labels), task, values, compares)
            self.after_batch(list(averages))
        for run, average in averages.items():
            if run.failure is None:
                with self.failures.isolate(run):
                    self._add(run, values[run], task, average)

    def _test_batch(
        self, runs: list[Run], batch: tuple[Tensor, Tensor], task: int, values: dict[Run, list[BatchValues]],
        compares: bool,
    ) -> None:  # fmt: skip
        images, labels = batch
        features = self.networks.features(runs, images)
        scores = self.networks.scores(images, [run.reference for run in runs] if compares else [])
        for run in runs:
            with self.failures.isolate(run):
                values[run].append(run.eval_step(features.of(run.front), labels, task, scores.get(run.reference)))

    def _add(self, run: Run, values: list[BatchValues], task: int, average: Averages) -> None:
        column = run.learner.scorer.column("Loss", task)
        for fetched in fetch(values, self.context.world):
            average.add(column, fetched.loss * fetched.count, fetched.count)
            for name, (value, count) in fetched.sums.items():
                average.add(name, value, count)
