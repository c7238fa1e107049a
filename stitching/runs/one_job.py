"""One job from its YAML to its folder: what `stitching train` does, whatever kind of job it is."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.config.job_config import JobSettings
from stitching.config.yaml import Document
from stitching.progress import ProgressCallback
from stitching.runs.folder import RunFolder
from stitching.runs.kinds import RunOptions, RunRequest, kind_of, marked_kind
from stitching.runs.locks import file_lock
from stitching.runs.state import is_whole
from stitching.runs.stopping import Interrupted, StopRequest

__all__ = ["Report", "run_job", "smoke_test_job"]


@dataclass(frozen=True)
class Report:
    """The message for the user at the end, and the process's exit code."""

    words: str
    exit_code: int = 0


def run_job(document: Document, *, resume: bool, overwrite: bool, on_progress: ProgressCallback, again: str) -> Report:
    """Run the job in `document` beside its file, or in its `save_dir`.

    Args:
        document: the config, with the values of the command line.
        resume: resume from the checkpoint, if there is one.
        overwrite: start again over an earlier result.
        on_progress: shows progress.
        again: the command that resumes this job, for the message after a stop.

    Raises:
        UserError: the config is wrong, or results of an earlier run would be lost; nothing was changed.
    """
    if resume and overwrite:
        raise UserError("--resume continues the earlier run, --overwrite removes it", allowed="one of them")
    kind = marked_kind(document)
    job = kind.read(document)
    start = _Start(job, Path(job.save_dir) if job.save_dir else document.folder, resume, overwrite)
    with StopRequest().on_signals() as stop:
        try:
            start.check()  # before setting up, which takes time
            kind.check(job, _compute)  # mistakes are told before any data is opened
            request = RunRequest(job, start.folder, start.hold)
            options = RunOptions(resume=start.resume, overwrite=overwrite, on_progress=on_progress, stop=stop)
            (run,) = kind.run([request], options)
        except _NothingToDo as reason:
            return Report(f"Nothing to do: {reason.problem}")
        except Interrupted:
            if stop.number == signal.SIGUSR2 and _steps(start.folder) <= start.steps_before:
                # At 130 sbatch/train-preemptible.sbatch puts the job back into the queue; this one would never end.
                return Report("Stopped: time ran out before the first step. Give it more time.", 1)
            return Report(f"Stopped; the checkpoint is {start.folder.checkpoint}. To resume:\n  {again}", 130)
    final = {key: value for key, value in run.final.items() if key.startswith("Overall/Test")}
    words = ", ".join(f"{key.removeprefix('Overall/').lower()} {value:.4f}" for key, value in final.items())
    return Report(f"Done{': ' * bool(words)}{words}\nResult: {run.folder.result}")


def smoke_test_job(document: Document, on_progress: ProgressCallback) -> Report:
    """Try the job on a little data, without leaving a file."""
    kind = marked_kind(document)
    kind.check(kind.read(document), _compute)
    return Report(f"The smoke test passed: {kind.smoke_test(document, on_progress)}")


def _compute(_: object, compute: Callable[[], Any]) -> Any:
    """Remembers nothing."""
    return compute()


class _NothingToDo(UserError):
    """The result already exists."""


class _Start:
    """One start of a job: it chooses the files, and makes sure that no result of an earlier run is lost.

    Both depend on the files in the folder, which another start may change until the folder is locked.
    """

    def __init__(self, job: JobSettings, path: Path, resume: bool, overwrite: bool) -> None:
        self.job = job
        self.path = path
        self.overwrite = overwrite
        self.folder = self._choose_folder()
        self.resume = resume or job.resume_from == str(self.folder.checkpoint.resolve())
        self.steps_before = 0

    @contextmanager
    def hold(self) -> Iterator[RunFolder]:
        """Lock the folder that was chosen; raises as `check` does."""
        with ExitStack() as locks:
            with file_lock(self.path / ".start.lock", waits=True):  # other starts in this folder choose after this one
                self.folder = self._choose_folder()
                locks.enter_context(self.folder.locked())
                self.folder.lock.write_text(f"{self.job.train_config.seed}\n")
            self.check()
            yield self.folder

    def check(self) -> None:
        """Raise if this start would overwrite an earlier run's files, or resume another job's.

        Raises:
            _NothingToDo: the run is done.
            UserError: names the files that would be lost.
        """
        folder, metadata = self.folder, self._metadata_of(self.folder)
        if self.resume and metadata.get("state") == "done" and folder.result.exists():
            if metadata.get("identity") != kind_of(self.job).identity(self.job):
                raise UserError(f"{folder.result} is the result of another config", do="--overwrite replaces it.")
            if not is_whole(folder, metadata):
                raise UserError(f"{folder.result} or {folder.steps.name} is damaged", do="--overwrite trains it again.")
            raise _NothingToDo(f"{folder.result} exists, and its run is done.")
        if not (self.resume or self.overwrite):
            _check_nothing_lost(folder)
        if self.resume:
            _check_same_seed(self.job, folder)
            self.steps_before = _steps(folder)

    def _choose_folder(self) -> RunFolder:
        """The folder; with the seed in the names of its files if it has the run of another seed."""
        folder = RunFolder(self.path, self.job.metrics_output)
        seed = self.job.train_config.seed
        if self._seed_of(folder) in (None, seed):
            return folder
        output = Path(self.job.metrics_output)
        return RunFolder(self.path, f"{output.stem}-{seed}{output.suffix}")

    def _seed_of(self, folder: RunFolder) -> int | None:
        """The seed of the run in a folder; None if there is no run, or no seed in its metadata."""
        if folder.is_busy():
            with suppress(OSError, ValueError):
                return int(folder.lock.read_text())  # the metadata may not be written yet
        return self._metadata_of(folder).get("seed")

    def _metadata_of(self, folder: RunFolder) -> dict[str, Any]:
        try:
            return folder.read_metadata() or {}
        except UserError:
            if self.overwrite:
                return {}
            raise


def _steps(folder: RunFolder) -> int:
    """The number of steps that the run has done, by its metadata."""
    return int((folder.read_metadata() or {}).get("steps", 0))


def _check_nothing_lost(folder: RunFolder) -> None:
    """Raise if starting from scratch would overwrite an earlier run's files."""
    state = (folder.read_metadata() or {}).get("state")
    if folder.has_checkpoint and state != "done":
        raise UserError(
            f"{folder.checkpoint} is of an unfinished run",
            do="--resume continues from it, --overwrite starts over.",
        )
    if folder.result.exists():
        raise UserError(f"{folder.result} already exists", do="--overwrite replaces it; another save_dir keeps both.")


def _check_same_seed(job: JobSettings, folder: RunFolder) -> None:
    """Raise if resuming would start over without a warning, because the run in the folder has another seed."""
    of_first_seed = RunFolder(folder.path, job.metrics_output)
    if folder != of_first_seed and not folder.has_checkpoint:
        seed = (of_first_seed.read_metadata() or {}).get("seed")
        raise UserError(
            f"{folder.checkpoint} does not exist; the run in {folder.path} has the seed {seed}, this one "
            f"{job.train_config.seed}",
            do=f"--seed {seed} continues that run; without --resume this seed starts a run of its own.",
        )
