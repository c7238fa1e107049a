"""The training loop: n runs over one stream of data, and n = 1 is the ordinary case."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stitching.config.errors import UserError, at
from stitching.config.job_config import Job
from stitching.nets.build import forget_models
from stitching.runs.folder import FolderBusy, RunFolder
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.training.checkpoints import newest_whole_checkpoint, read_checkpoint
from stitching.training.devices import deterministic, device_of
from stitching.training.distributed import ProcessGroup, process_group
from stitching.training.failures import Diverged, cause_of, in_words, reason_of
from stitching.training.fit_adapters import fit_adapters
from stitching.training.metrics import Averages
from stitching.training.references import References
from stitching.training.run import Run
from stitching.training.run_record import record_end, record_start
from stitching.training.shared_prefixes import SharedPrefixes, TaskData, shared_key

__all__ = ["Interrupted", "Progress", "StopRequest", "TrainRequest", "train"]


# Called with `done` of `total` steps of all runs together, and words for what is going on.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainRequest:
    """A job, and the folder for what it leaves.

    `hold` takes the folder for this process once everything is set up. It may settle for another one than was planned,
    or raise where an earlier run's result would be lost; without it `folder` is held.
    """

    job: Job
    folder: RunFolder
    hold: Callable[[], AbstractContextManager[RunFolder]] | None = None


def train(
    setups: Sequence[TrainRequest],
    *,
    resume: bool = False,
    overwrite: bool = False,
    skip_busy: bool = False,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    max_test_batches: int | None = None,
) -> list[Run]:
    """Train every job; those that share data share a pass over it, and equal frozen fronts are computed once.

    A job leaves the same result whether it is trained alone or with others, and whether or not it was stopped and
    resumed on the way. A run that fails has its reason recorded and does not stop the others.

    Where torchrun or Slurm started several processes, all call this alike, and share the work: `batch_size` stays the
    size of the whole batch, so that the result is that of one process but for rounding. They stop together, and they
    fail together: no process can go on without the others.

    Args:
        setups: jobs that may share a loop (`shared_key`), each with a folder of its own.
        resume: go on from the checkpoint in a run's folder where there is one.
        overwrite: remove what an earlier run left, once everything is set up.
        skip_busy: leave out runs that another process is training, and those that are done; else they are errors.
        progress: told after every step.
        stop: heeded at every step boundary.
        max_test_batches: tests on the first few batches only; for a smoke test.

    Returns:
        The runs, in the order of `setups`; `failure` says which of them failed.

    Raises:
        UserError: a job cannot be set up; nothing was trained then.
        Interrupted: `stop` was asked for; every run has a checkpoint.
    """
    first = setups[0].job
    assert len({shared_key(setup.job) for setup in setups}) == 1, "these jobs cannot share a loop"
    world = process_group()
    with world.together():
        device = device_of(first, world)
        share = (world.rank, world.size)
        data = TaskData(first, pin_memory=device.type == "cuda", max_test_batches=max_test_batches, share=share)
        try:
            runs = [Run(setup.job, setup.folder, data, device, world) for setup in setups]
            shared_prefixes = SharedPrefixes(run.front for run in runs if run.front).to(device)
            compared = [(run.job, run.network.out_format.channels) for run in runs]
            references = References(compared, data.image_shape).to(device)
        finally:
            forget_models()
        if first.channels_last:
            shared_prefixes = shared_prefixes.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            references = references.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if first.compile:
            # Each run compiles its own network, to train and to test; at the default limit the ninth would not be.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(runs))
            shared_prefixes.compile()
        given = {}
        for run in runs:
            source = run.job.resume_from
            if source and not (
                resume and run.folder.has_checkpoint and Path(source).resolve() == run.folder.checkpoint.resolve()
            ):
                with at("resume_from"):
                    given[run] = read_checkpoint(Path(source), run.job)
    with ExitStack() as held, deterministic(first.deterministic):
        folders = world.decided(
            lambda: [_held_folder(run, setup, held, skip_busy) for run, setup in zip(runs, setups, strict=True)]
        )
        for run, folder in zip(runs, folders, strict=True):
            run.folder = folder or run.folder
        ours = [run for run, folder in zip(runs, folders, strict=True) if folder]
        checkpoints = world.decided(lambda: [_checkpoint_of(run, resume=resume, overwrite=overwrite) for run in ours])
        with world.together():
            for run, checkpoint in zip(ours, checkpoints, strict=True):
                if checkpoint:
                    run.resume(read_checkpoint(checkpoint, run.job))
                elif run in given:
                    run.resume(given[run])
            new = [run for run, path in zip(ours, checkpoints, strict=True) if not path and run not in given]
            _fit(new, device)
            notes = [note for batches in (*data.train, *data.val, *data.test) for note in batches.notes]
            for run in ours:
                for note in (*notes, *run.notes):
                    run.say(f"note: {note}")
                if run.only_tests and not run.job.test_only:
                    run.say("nothing in the network is trained: it is only tested")
                record_start(run)
        if ours:
            Trainer(
                ours,
                shared_prefixes,
                references,
                data,
                device,
                progress if progress and world.is_first else (lambda done, total, words: None),
                stop or StopRequest(),
                world,
                alone=len(setups) == 1,
            ).run()
    return runs


def _fit(runs: list[Run], device: torch.device) -> None:
    """Fit the adapters that are to be fitted before the first step; every process does all of it, alike."""
    to_fit = [run.to_fit for run in runs if run.to_fit]
    if to_fit:
        fit_adapters(to_fit, runs[0].job, device)
    for run in runs:
        if run.to_fit:
            made = f", its prefix tokens to {run.to_fit.tokens.count} images" * bool(run.to_fit.tokens.count)
            run.say(f"the adapter was fitted by least squares, to {run.to_fit.moments.count} positions of images{made}")
            run.to_fit = None  # with its sums


def _held_folder(run: Run, setup: TrainRequest, held: ExitStack, skip_busy: bool) -> RunFolder | None:
    """The run's folder, which is ours now; None if another process trains the run, or has done so."""
    try:
        folder = held.enter_context((setup.hold or setup.folder.locked)())
    except FolderBusy as error:
        if not skip_busy:
            raise
        _print_note(f"{run.name} is left out: {error.problem}")
        return None
    if skip_busy:
        known = folder.read_metadata() or {}
        if known.get("state") == "done" and known.get("identity") == run.identity:
            return None
    return folder


def _print_note(words: str) -> None:
    print(f"note: {words}", file=sys.stderr, flush=True)


def _checkpoint_of(run: Run, *, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to go on from, if there is one, once what an earlier run left is removed if it shall be."""
    if overwrite:
        for file in run.folder.files:
            file.unlink(missing_ok=True)
    if not resume:
        return None
    checkpoint, notes = newest_whole_checkpoint(run.folder)
    for note in notes:
        run.say(f"note: {note}")
        _print_note(note)
    return checkpoint


class Trainer:
    """The loop of `train`, with what it passes around."""

    def __init__(
        self,
        runs: list[Run],
        shared_prefixes: SharedPrefixes,
        references: References,
        data: TaskData,
        device: torch.device,
        progress: Progress,
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
            error = UserError("another process of the job was lost", do="Its output may say why; then go on from here.")
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
        run.failure, run.cause = reason_of(error), cause_of(error)
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
