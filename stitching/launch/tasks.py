"""Tasks: the run folders that one process works on together, and the process that does it.

This is all that a launcher needs to know: it starts `stitching.launch.start` somewhere with a snapshot of the code and
run folders. Everything else is on disk.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stitching.config.errors import UserError
from stitching.data.datasets import UnreadableImage
from stitching.processes import process_rank
from stitching.progress import ProgressCallback
from stitching.runs.causes import ERROR, OUT_OF_MEMORY
from stitching.runs.folder import FolderBusy, RunFolder, read_checked, write_yaml
from stitching.runs.kinds import RunOptions, RunRequest, kind_of, load_job
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.training.failures import cause_of, failure_reason, free_memory

__all__ = ["main", "note_failure", "run_task"]


def run_task(
    folders: Sequence[Path], progress: ProgressCallback | None = None, stop: StopRequest | None = None
) -> dict[str, str]:
    """Run the jobs whose configs lie in `folders`, resuming from checkpoints; returns the failures by folder name.

    What is wrong with one run stays with it: the reason is recorded, and the others continue. Runs that take too much
    memory together are run each for itself. Where several processes share the work, all call this alike, and what goes
    wrong in the midst of it ends all runs.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR2 came, or `stop` was asked for; every run has a checkpoint.
    """
    failures: dict[str, str] = {}
    packs: dict[object, list[RunRequest[Any]]] = {}  # one, unless folders were put together by hand
    for path in folders:
        try:
            request = _request_of(path)
            kind = kind_of(request.job)
            packs.setdefault((kind.name, kind.share_key(request.job) or path), []).append(request)
        except UserError as error:
            failures |= _failed(RunFolder.found_in(path), error)
    with (stop or StopRequest()).on_signals() as asked:
        options = RunOptions(resume=True, skip_busy=True, stop=asked)
        if progress:
            options = replace(options, on_progress=progress)
        for pack in packs.values():
            failed, alone = _run_pack(pack, options)
            failures |= failed
            for request, reason in alone:
                free_memory()  # of the pack, and of the run before
                _note(request.folder, f"this run is tried for itself; in a pack of {len(pack)}: {reason}")
                failures |= _run_pack([request], options)[0]
    return failures


def _request_of(path: Path) -> RunRequest[Any]:
    """The job in a run's folder, if what `submit` wrote there is there as it was written."""
    config = path / "config.yml"
    try:
        read_checked(config, str)
        job = load_job(config)
        folder = RunFolder(path, job.metrics_output)
        read_checked(folder.metadata, str)  # which names the run
    except FileNotFoundError as error:
        raise UserError(str(error), do="`stitching submit` writes it again.") from None
    return RunRequest(job, folder)


def _run_pack(
    pack: list[RunRequest[Any]], options: RunOptions
) -> tuple[dict[str, str], list[tuple[RunRequest[Any], str]]]:
    """Run jobs together; returns the failures by name, and the runs to try each for itself with what stopped them."""
    one_process = process_rank().size == 1
    try:
        runs = kind_of(pack[0].job).run(pack, options)
    except Interrupted:
        raise
    except Exception as error:
        same_for_all = isinstance(error, UnreadableImage)
        others_wait = not one_process and not isinstance(error, UserError)  # for this process, which goes on alone
        if len(pack) > 1 and not (same_for_all or others_wait):
            return {}, [(request, failure_reason(error)) for request in pack]  # one of them cannot be set up
        failures: dict[str, str] = {}
        for request in pack:
            failures |= _failed(request.folder, error)
        return failures, []
    failed = [(request, run.failure, run.cause) for request, run in zip(pack, runs, strict=True) if run.failure]
    may_fit_alone = len(pack) > 1 and one_process
    alone = [(request, reason) for request, reason, cause in failed if may_fit_alone and cause == OUT_OF_MEMORY]
    again = [request for request, _ in alone]
    return {request.folder.path.name: reason for request, reason, _ in failed if request not in again}, alone


def _failed(folder: RunFolder, error: Exception) -> dict[str, str]:
    is_users = isinstance(error, UserError)
    reason = str(error) if is_users else failure_reason(error)
    if not is_users or process_rank().rank == 0:
        details = "" if is_users else "".join(traceback.format_exception(error))
        note_failure(folder, reason, details, cause=cause_of(error))
    return {folder.path.name: reason}


def _note(folder: RunFolder, words: str) -> None:
    """Write a note into the run's log and the task's output."""
    if process_rank().rank != 0:
        return
    print(f"{folder.path.name}: {words}", file=sys.stderr, flush=True)
    with suppress(OSError), open(folder.log, "a", encoding="utf-8") as log:
        log.write(f"note: {words}\n")


def note_failure(folder: RunFolder, reason: str, details: str = "", *, cause: str = ERROR) -> None:
    """Record why a run is not done, in its metadata and its log, unless another process is training it.

    Args:
        folder: the run's.
        reason: a line for `status`.
        details: what else the log should say.
        cause: one of `stitching.runs.causes.CAUSES`.
    """
    try:
        with folder.locked():
            metadata = folder.read_metadata() or {}
            write_yaml(folder.metadata, metadata | {"state": "failed", "failure": reason, "cause": cause})
            with open(folder.log, "a", encoding="utf-8") as log:
                log.write(f"failed: {reason}\n{details}")
    except FolderBusy:
        pass
    except (UserError, OSError):
        pass  # the disk may be what failed; whoever called knows the reason


def main(arguments: list[str]) -> int:
    """Run a task; each line printed is a JSON object about its progress."""
    stop = StopRequest()

    def print_progress(done: int, total: int, words: str) -> None:
        _print_event(stop, {"done": done, "total": total, "words": words})

    try:
        failures = run_task([Path(name) for name in arguments], print_progress, stop)
    except Interrupted:
        return 130
    _print_event(stop, {"failures": failures})
    return 1 if failures else 0


def _print_event(stop: StopRequest, event: dict[str, object]) -> None:
    try:
        print(json.dumps(event), flush=True)
    except BrokenPipeError:
        # Whoever started this is gone, so nobody could stop it any more: save, and end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        stop.asked = True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
