"""The task that Slurm starts; it saves and requeues itself before its time limit.

Its arguments are paths only. Everything else is on disk, so a task that Slurm starts again does the same thing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stitching.launch.tasks import note_failure, run_task
from stitching.processes import process_rank
from stitching.runs.folder import RunFolder
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.training.distributed import process_group

__all__ = ["run_slurm_task"]


def run_slurm_task(folders: Sequence[str]) -> None:
    """Train the runs in `folders`; ends with exit code 1 if one of them failed.

    Each process of a job of several calls it; the first one notes failures and goes back to the queue.
    """
    runs = [RunFolder.found_in(Path(folder)) for folder in folders]
    is_first = process_rank().rank == 0
    before = _steps(runs)
    with StopRequest().on_signals() as stop:
        try:
            failures = run_task([run.path for run in runs], _print_progress, stop)
        except Interrupted:
            if is_first:
                print("stopped; every run has a checkpoint", flush=True)
                if stop.number == signal.SIGUSR2:
                    _requeue(runs, progress=_steps(runs) > before)
            sys.exit(0)
    if failures and process_group().first_to_report():
        for name, reason in failures.items():
            print(f"{name}: {reason}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def _requeue(runs: Sequence[RunFolder], *, progress: bool) -> None:
    """Requeue the task, unless it made no step and would be requeued forever."""
    if not progress:
        for run in runs:
            reason = "time ran out before the first step; give the tasks more minutes"
            note_failure(run, reason, cause="time limit")
        sys.exit(1)
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)


def _steps(runs: Sequence[RunFolder]) -> int:
    """How many steps all runs have made, by their metadata."""
    return sum((run.read_metadata() or {}).get("steps", 0) for run in runs)


def _print_progress(done: int, total: int, words: str) -> None:
    if done % 100 == 0:
        print(f"{done}/{total} steps  {words}", flush=True)
