"""Tasks: the run folders that one process trains together, and the process that does it.

This is all that a launcher needs to know: it starts `python -m stitching.sweeps.tasks FOLDER...` somewhere. Everything
else is on disk.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from stitching.config.errors import UserError
from stitching.config.job import load_job
from stitching.sweeps.plan import PlannedRun
from stitching.training.files import RunFolder
from stitching.training.trainer import Interrupted, Progress, Setup, StopRequest, train
from stitching.training.trunk import shared_key

__all__ = ["packed", "run_task"]


def packed(runs: Iterable[PlannedRun], size: int) -> list[list[PlannedRun]]:
    """The runs in packs of at most `size` that can share a loop and start from the same source model."""
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        assert run.job is not None
        groups.setdefault((run.cell.source.title, shared_key(run.job)), []).append(run)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def run_task(folders: Sequence[Path], progress: Progress | None = None) -> dict[str, str]:
    """Train the runs whose configs lie in `folders`, going on from checkpoints; returns the failures by folder name.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGUSR2 came; every run has a checkpoint.
    """
    setups = []
    for folder in folders:
        job = load_job(folder / "config.yml")
        setups.append(Setup(job, RunFolder(folder, job.metrics_output)))
    with StopRequest().on_signals() as stop:
        runs = train(setups, resume=True, skip_busy=True, progress=progress, stop=stop)
    return {run.name: run.failure for run in runs if run.failure}


def _main(arguments: list[str]) -> int:
    """Run a task; each line printed is a JSON object about its progress."""

    def tell(done: int, total: int, words: str) -> None:
        print(json.dumps({"done": done, "total": total, "words": words}), flush=True)

    try:
        failures = run_task([Path(name) for name in arguments], tell)
    except Interrupted:
        return 130
    except UserError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
