"""One job from its YAML to its folder: what `stitching train` does, whatever kind of job it is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.config.job_config import JobSettings
from stitching.config.yaml import Document
from stitching.runs.folder import RunFolder
from stitching.runs.kinds import ProgressCallback, RunRequest, kind_of, marked_kind
from stitching.runs.locks import file_lock
from stitching.runs.state import is_whole
from stitching.runs.stopping import Interrupted, StopRequest

__all__ = ["Report", "run_job", "smoke_test_job"]


@dataclass(frozen=True)
class Report:
    """What to tell the user at the end, and the process's exit code."""

    words: str
    exit_code: int = 0


def run_job(document: Document, *, resume: bool, overwrite: bool, on_progress: ProgressCallback, again: str) -> Report:
    """Run the job in `document` beside its file, or in its `save_dir`.

    Args:
        document: the config, what the command line says already in it.
        resume: go on from the checkpoint, if there is one.
        overwrite: start again over an earlier result.
        on_progress: shows progress.
        again: the command that resumes this job, for the message after a stop.

    Raises:
        UserError: the config is wrong, or results of an earlier run would be lost; nothing was changed then.
    """
    if resume and overwrite:
        raise UserError("--resume continues the earlier run, --overwrite removes it", allowed="one of them")
    kind = marked_kind(document)
    job = kind.read(document)
    start = _Start(job, Path(job.save_dir) if job.save_dir else document.folder, resume, overwrite)
    with StopRequest().on_signals() as stop:
        try:
            start.check()  # now, as setting up takes its time
            request = RunRequest(job, start.folder, start.hold)
            (run,) = kind.run([request], resume=start.resume, overwrite=overwrite, progress=on_progress, stop=stop)
        except _NothingToDo as reason:
            return Report(f"Nothing to do: {reason.problem}")
        except Interrupted:
            if stop.number == signal.SIGUSR2 and _steps(start.folder) <= start.steps_before:
                # At 130 sbatch/train-preemptible.sbatch puts the job back into the queue; this one would never end.
                return Report("Stopped: its time was over before it had made a single step. Give it more.", 1)
            return Report(f"Stopped; the checkpoint is {start.folder.checkpoint}. To resume:\n  {again}", 130)
    final = {key: value for key, value in run.final.items() if key.startswith("Overall/Test")}
    words = ", ".join(f"{key.removeprefix('Overall/').lower()} {value:.4f}" for key, value in final.items())
    return Report(f"Done{': ' * bool(words)}{words}\nResult: {run.folder.result}")


def smoke_test_job(document: Document, on_progress: ProgressCallback) -> Report:
    """Try the job on a little data; nothing is kept."""
    return Report(f"The smoke test passed: {marked_kind(document).smoke_test(document, on_progress)}")


class _NothingToDo(UserError):
    """The result is there already."""


class _Start:
    """One start of a job: which files it writes, and that none of an earlier run is lost.

    Both depend on what lies in the folder, which another start may change until the folder is held.
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
        """Hold the folder of this start's choice; raises as `check` does."""
        with ExitStack() as held:
            with file_lock(self.path / ".start.lock", waits=True):  # others that start here choose after us
                self.folder = self._choose_folder()
                held.enter_context(self.folder.locked())
                self.folder.lock.write_text(f"{self.job.train_config.seed}\n")
            self.check()
            yield self.folder

    def check(self) -> None:
        """Raise if this start would lose what an earlier run left, or mistake it for its own.

        Raises:
            _NothingToDo: the run is done.
            UserError: says what lies there.
        """
        folder, known = self.folder, self._known(self.folder)
        if self.resume and known.get("state") == "done" and folder.result.exists():
            if known.get("identity") != kind_of(self.job).identity(self.job):
                raise UserError(f"{folder.result} is the result of another config", do="--overwrite replaces it.")
            if not is_whole(folder, known):
                raise UserError(f"{folder.result} or {folder.steps.name} is damaged", do="--overwrite trains it again.")
            raise _NothingToDo(f"{folder.result} is there, whole and finished.")
        if not (self.resume or self.overwrite):
            _nothing_lost(folder)
        if self.resume:
            _nothing_mistaken(self.job, folder)
            self.steps_before = _steps(folder)

    def _choose_folder(self) -> RunFolder:
        """With the seed in the files' names if the folder holds the run of another seed."""
        folder = RunFolder(self.path, self.job.metrics_output)
        seed = self.job.train_config.seed
        if self._seed_of(folder) in (None, seed):
            return folder
        output = Path(self.job.metrics_output)
        return RunFolder(self.path, f"{output.stem}-{seed}{output.suffix}")

    def _seed_of(self, folder: RunFolder) -> int | None:
        """The seed of the run that a folder holds; None if there is none, or if it does not say."""
        if folder.is_busy():
            with suppress(OSError, ValueError):
                return int(folder.lock.read_text())  # its metadata may not be written yet
        return self._known(folder).get("seed")

    def _known(self, folder: RunFolder) -> dict[str, Any]:
        try:
            return folder.read_metadata() or {}
        except UserError:
            if self.overwrite:
                return {}
            raise


def _steps(folder: RunFolder) -> int:
    """How many steps the run has made, as far as its metadata knows."""
    return int((folder.read_metadata() or {}).get("steps", 0))


def _nothing_lost(folder: RunFolder) -> None:
    """Raise if starting from scratch would write over what an earlier run left."""
    state = (folder.read_metadata() or {}).get("state")
    if folder.has_checkpoint and state != "done":
        raise UserError(
            f"{folder.checkpoint} is of an unfinished run",
            do="--resume continues from it, --overwrite starts over.",
        )
    if folder.result.exists():
        raise UserError(f"{folder.result} already exists", do="--overwrite replaces it; another save_dir keeps both.")


def _nothing_mistaken(job: JobSettings, folder: RunFolder) -> None:
    """Raise if going on would quietly begin anew, because the run that is there has another seed."""
    first = RunFolder(folder.path, job.metrics_output)
    if folder != first and not folder.has_checkpoint:
        seed = (first.read_metadata() or {}).get("seed")
        raise UserError(
            f"{folder.checkpoint} does not exist; the run in {folder.path} has the seed {seed}, this one "
            f"{job.train_config.seed}",
            do=f"--seed {seed} continues that run; without --resume this seed starts a run of its own.",
        )
