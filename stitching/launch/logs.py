"""A run's log, and the output of its newest task in a queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from stitching.config.errors import UserError
from stitching.launch.submitted import newest_tasks
from stitching.runs.folder import RunFolder

__all__ = ["followed_log", "log_files"]


def log_files(run: Path) -> list[Path]:
    """The existing logs of the run in the folder `run`: its own first, then that of its newest task.

    Raises:
        UserError: there is no such folder, no run in it, or no log yet.
    """
    _check_run_folder(run)
    task = newest_tasks(run.parent).get(run.name)
    logs = [path for path in (*sorted(run.glob("log*.txt")), *([task.log] if task else [])) if path.is_file()]
    if not logs:
        raise UserError(
            f"{run} has no log yet: the run has not begun",
            do=f"`stitching status {run.parent}` says what it waits for.",
        )
    return logs


def followed_log(run: Path, every: float = 0.5) -> Iterator[str]:
    """The run's own log as it is written, until the run is done or failed.

    Args:
        run: the run's folder.
        every: seconds between two reads of the file.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    _check_run_folder(run)
    folder = RunFolder.found_in(run)
    position = 0
    while True:
        # Checked before reading: what is written in between is read in the next round.
        over = (folder.read_metadata() or {}).get("state") in ("done", "failed")
        if folder.log.is_file():
            with open(folder.log, "rb") as log:
                log.seek(position)
                new = log.read()
            whole = new if over else new[: new.rfind(b"\n") + 1]  # a line that is still being written comes later
            position += len(whole)
            yield from whole.decode(errors="replace").splitlines()
        if over:
            return
        time.sleep(every)


def _check_run_folder(run: Path) -> None:
    if not run.is_dir():
        raise UserError(f"{run}: there is no folder here", do="`stitching status FOLDER` lists the runs of a sweep.")
    if not (run / "config.yml").is_file():
        raise UserError(
            f"{run} is no folder of a run: there is no config.yml in it",
            do="Give the folder of one run; `stitching status FOLDER` lists those of a sweep.",
        )
