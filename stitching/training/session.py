"""Setting up a loop: the runs built, their folders held, checkpoints found, adapters fitted."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from stitching.config.errors import at
from stitching.config.job_config import Job
from stitching.models.traced_models import forget_models
from stitching.runs.folder import FolderBusy, RunFolder
from stitching.runs.stopping import StopRequest
from stitching.training.checkpoints import newest_whole_checkpoint, read_checkpoint
from stitching.training.devices import deterministic, device_of
from stitching.training.distributed import process_group
from stitching.training.evaluation import References
from stitching.training.fit_adapters import fit_adapters
from stitching.training.job_data import TaskData, shared_key
from stitching.training.run import Run
from stitching.training.run_record import record_start
from stitching.training.shared_prefixes import SharedPrefixes
from stitching.training.trainer import ProgressCallback, Trainer

__all__ = ["TrainRequest", "train"]


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
    progress: ProgressCallback | None = None,
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
