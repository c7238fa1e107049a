"""Tasks: the run folders that one process trains together, and the process that does it.

This is all that a launcher needs to know: it starts `python -m stitching.sweeps.tasks FOLDER...` somewhere. Everything
else is on disk.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from stitching.config.errors import UserError
from stitching.config.job import load_job
from stitching.processes import place_in_job
from stitching.sweeps.plan import PlannedRun
from stitching.training.failures import ERROR, cause_of
from stitching.training.files import FolderBusy, RunFolder, checked_text, write_yaml
from stitching.training.trainer import Interrupted, Progress, Setup, StopRequest, train
from stitching.training.trunk import shared_key

__all__ = ["note_failure", "packed", "run_task"]


def packed(runs: Iterable[PlannedRun], size: int) -> list[list[PlannedRun]]:
    """The runs in packs of at most `size` that can share a loop and start from the same source model."""
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        assert run.job is not None
        groups.setdefault((run.cell.source.title, shared_key(run.job)), []).append(run)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def run_task(
    folders: Sequence[Path], progress: Progress | None = None, stop: StopRequest | None = None
) -> dict[str, str]:
    """Train the runs whose configs lie in `folders`, going on from checkpoints; returns the failures by folder name.

    What is wrong with one run stays with it: the reason is put on record, and the others are trained. Where several
    processes share the work, all call this alike, and what goes wrong in the midst of training ends all runs.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR2 came, or `stop` was asked for; every run has a checkpoint.
    """
    failures: dict[str, str] = {}
    setups = []
    for path in folders:
        try:
            setups.append(_setup_of(path))
        except UserError as error:
            failures |= _failed(RunFolder.found_in(path), error)
    with (stop or StopRequest()).on_signals() as asked:
        try:
            return failures | _trained(setups, progress, asked)
        except UserError as error:
            if len(setups) == 1:
                return failures | _failed(setups[0].folder, error)
        # One of them cannot be set up, or all met the same trouble on the way: each for itself then.
        for setup in setups:
            try:
                failures |= _trained([setup], progress, asked)
            except UserError as error:
                failures |= _failed(setup.folder, error)
    return failures


def _setup_of(path: Path) -> Setup:
    """The job in a run's folder, if what `submit` wrote there is there as it was written."""
    config = path / "config.yml"
    try:
        checked_text(config)
        job = load_job(config)
        folder = RunFolder(path, job.metrics_output)
        checked_text(folder.metadata)  # which names the run
    except FileNotFoundError as error:
        raise UserError(str(error), do="`stitching submit` writes it again.") from None
    return Setup(job, folder)


def _trained(setups: list[Setup], progress: Progress | None, stop: StopRequest) -> dict[str, str]:
    if not setups:
        return {}
    runs = train(setups, resume=True, skip_busy=True, progress=progress, stop=stop)
    return {run.name: run.failure for run in runs if run.failure}


def _failed(folder: RunFolder, error: UserError) -> dict[str, str]:
    if place_in_job().rank == 0:
        note_failure(folder, str(error), cause=cause_of(error))
    return {folder.path.name: str(error)}


def note_failure(folder: RunFolder, reason: str, details: str = "", *, cause: str = ERROR) -> None:
    """Put on record why a run is not done, in its metadata and its log; not if another process is at it.

    Args:
        folder: the run's.
        reason: a line for `status`.
        details: what else the log should say.
        cause: one of `stitching.sweeps.status.CAUSES`.
    """
    try:
        with folder.locked():
            known = folder.read_metadata() or {}
            write_yaml(folder.metadata, known | {"state": "failed", "failure": reason, "cause": cause})
            with open(folder.log, "a", encoding="utf-8") as log:
                log.write(f"failed: {reason}\n{details}")
    except FolderBusy:
        pass
    except (UserError, OSError):
        pass  # the disk may be what failed; whoever called knows the reason


def _main(arguments: list[str]) -> int:
    """Run a task; each line printed is a JSON object about its progress."""
    stop = StopRequest()

    def tell(done: int, total: int, words: str) -> None:
        _say(stop, {"done": done, "total": total, "words": words})

    try:
        failures = run_task([Path(name) for name in arguments], tell, stop)
    except Interrupted:
        return 130
    _say(stop, {"failures": failures})
    return 1 if failures else 0


def _say(stop: StopRequest, event: dict[str, object]) -> None:
    try:
        print(json.dumps(event), flush=True)
    except BrokenPipeError:
        # Whoever started this is gone, so nobody could stop it any more: save, and end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        stop.asked = True


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
