"""Setting up a loop: it builds the runs, locks their folders, finds checkpoints and fits adapters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from stitching.config.errors import at
from stitching.config.job_config import Job
from stitching.models.traced_models import forget_models
from stitching.runs.folder import FolderBusy, RunFolder
from stitching.runs.kinds import RunOptions, RunRequest
from stitching.training.checkpoints import newest_whole_checkpoint, read_checkpoint
from stitching.training.devices import deterministic, device_of
from stitching.training.distributed import process_group
from stitching.training.fit_adapters import Stitched, fit_adapters
from stitching.training.frozen_networks import FrozenNetworks
from stitching.training.job_data import TaskData, shared_key
from stitching.training.loop_context import LoopContext
from stitching.training.run import Run
from stitching.training.run_builder import build_run
from stitching.training.run_record import record_start
from stitching.training.saving import resume_run
from stitching.training.shared_networks import SharedNetworks
from stitching.training.trainer import Trainer

__all__ = ["train"]


def train(
    requests: Sequence[RunRequest[Job]], options: RunOptions | None = None, *, max_test_batches: int | None = None
) -> list[Run]:
    """Train jobs in one pass over their data; equal frozen fronts are computed once.

    A job leaves the same result whether it is trained alone or with others, and whether or not it was stopped and
    resumed on the way. A run that fails has its reason recorded and does not stop the others.

    Where torchrun or Slurm started several processes, all call this and share the work: `batch_size` stays the size of
    the whole batch, so that the result is that of one process but for rounding. They stop and fail together: none can
    continue without the others.

    Args:
        requests: jobs that may share a loop (`shared_key`), each with a folder of its own.
        options: how they start, report and stop.
        max_test_batches: test on the first few batches only; for a smoke test.

    Returns:
        The runs, in the order of `requests`; `failure` says which of them failed.

    Raises:
        UserError: a job cannot be set up; nothing was trained then.
        Interrupted: `options.stop` was asked for; every run has a checkpoint.
    """
    options = options or RunOptions()
    session = _Session(requests, options)
    with session.world.together():
        session.build(max_test_batches)
    with ExitStack() as locks, deterministic(requests[0].job.deterministic):
        runs = session.lock_folders(locks)
        checkpoints = session.find_checkpoints(runs)
        with session.world.together():
            session.start(runs, checkpoints)
        if runs:
            trainer = Trainer(runs, session.networks, session.context, options)
            trainer.run(raises_failure=len(requests) == 1)
    return session.runs


class _Session:
    """The requests of one call of `train` on their way to a loop."""

    context: LoopContext
    networks: SharedNetworks

    def __init__(self, requests: Sequence[RunRequest[Job]], options: RunOptions) -> None:
        assert len({shared_key(request.job) for request in requests}) == 1, "these jobs cannot share a loop"
        self.requests = requests
        self.options = options
        self.world = process_group()
        self.runs: list[Run] = []
        self.to_fit: dict[Run, Stitched] = {}
        self.named_checkpoints: dict[Run, dict[str, Any]] = {}  # by `resume_from` in the configs

    def build(self, max_test_batches: int | None) -> None:
        """Build everything that can fail, before anything on disk changes."""
        first, world = self.requests[0].job, self.world
        device = device_of(first, world)
        data = TaskData(
            first, pin_memory=device.type == "cuda", max_test_batches=max_test_batches, share=(world.rank, world.size)
        )
        self.context = LoopContext.of(first, data, device, world)
        try:
            whole_networks = FrozenNetworks(data.image_shape, first.train_config.seed)
            for request in self.requests:
                run, to_fit = build_run(request.job, request.folder, self.context, whole_networks)
                self.runs.append(run)
                if to_fit:
                    self.to_fit[run] = to_fit
            self.networks = SharedNetworks(self.runs, whole_networks, self.context)
        finally:
            forget_models()
        if first.compile:
            # Each run compiles its own network twice, to train and to test; the default limit allows eight.
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 4 * len(self.runs))
        self._read_named_checkpoints()

    def _read_named_checkpoints(self) -> None:
        for run in self.runs:
            source = run.job.resume_from
            is_own = source and Path(source).resolve() == run.folder.checkpoint.resolve()
            if source and not (self.options.resume and run.folder.has_checkpoint and is_own):
                with at("resume_from"):
                    self.named_checkpoints[run] = read_checkpoint(Path(source), run.job)

    def lock_folders(self, locks: ExitStack) -> list[Run]:
        """Lock the runs' folders, which the first process does for all; returns the runs that are left to train."""
        folders = self.world.broadcast(
            lambda: [self._lock(run, request, locks) for run, request in zip(self.runs, self.requests, strict=True)]
        )
        for run, folder in zip(self.runs, folders, strict=True):
            run.folder = folder or run.folder
        return [run for run, folder in zip(self.runs, folders, strict=True) if folder]

    def _lock(self, run: Run, request: RunRequest[Job], locks: ExitStack) -> RunFolder | None:
        """The run's folder, locked; None if another process trains the run, or has done so."""
        try:
            folder = locks.enter_context(request.locked())
        except FolderBusy as error:
            if not self.options.skip_busy:
                raise
            _print_note(f"{run.name} is skipped: {error.problem}")
            return None
        if self.options.skip_busy:
            metadata = folder.read_metadata() or {}
            if metadata.get("state") == "done" and metadata.get("identity") == run.identity:
                return None
        return folder

    def find_checkpoints(self, runs: Sequence[Run]) -> list[Path | None]:
        """The checkpoint that each run resumes from. With `overwrite`, files of earlier runs are removed."""
        return self.world.broadcast(lambda: [self._checkpoint_of(run) for run in runs])

    def _checkpoint_of(self, run: Run) -> Path | None:
        if self.options.overwrite:
            for file in run.folder.files:
                file.unlink(missing_ok=True)
        if not self.options.resume:
            return None
        checkpoint, notes = newest_whole_checkpoint(run.folder)
        for note in notes:
            run.say(f"note: {note}")
            _print_note(note)
        return checkpoint

    def start(self, runs: Sequence[Run], checkpoints: Sequence[Path | None]) -> None:
        """Resume runs from their checkpoints, fit the adapters of new ones, and record the start."""
        new = []
        for run, checkpoint in zip(runs, checkpoints, strict=True):
            if checkpoint:
                resume_run(run, read_checkpoint(checkpoint, run.job))
            elif run in self.named_checkpoints:
                resume_run(run, self.named_checkpoints[run])
            else:
                new.append(run)
        _fit({run: self.to_fit[run] for run in new if run in self.to_fit}, self.context.device)
        self.to_fit.clear()
        data = self.context.data
        notes = [note for batches in (*data.train, *data.val, *data.test) for note in batches.notes]
        for run in runs:
            for note in (*notes, *run.notes):
                run.say(f"note: {note}")
            if run.only_tests and not run.job.test_only:
                run.say("nothing in the network is trained: it is only tested")
            record_start(run)


def _fit(to_fit: dict[Run, Stitched], device: torch.device) -> None:
    """Fit adapters before the first step; every process fits all of them."""
    if to_fit:
        fit_adapters([*to_fit.values()], next(iter(to_fit)).job, device)
    for run, stitched in to_fit.items():
        tokens = f", its prefix tokens to {stitched.tokens.count} images" * bool(stitched.tokens.count)
        run.say(f"the adapter was fitted by least squares, to {stitched.moments.count} positions of images{tokens}")


def _print_note(note: str) -> None:
    print(f"note: {note}", file=sys.stderr, flush=True)
