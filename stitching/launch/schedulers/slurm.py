"""Submitting tasks to Slurm as job arrays, through submitit.

What is done is known from the run folders alone. Slurm is asked for one thing only: which tasks it still holds.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from stitching.config.clusters import Profile
from stitching.config.errors import UserError
from stitching.config.script_text import ALLOWED, WHY, unfit_character
from stitching.launch.records import (
    Record,
    Submitted,
    damaged_records,
    job_name,
    new_record,
    read_records,
    write_record,
)
from stitching.launch.schedulers.slurm_commands import ask_slurm, need_program
from stitching.launch.schedulers.slurm_queue import held_jobs
from stitching.launch.snapshots import PYTHON_OPTIONS, current_snapshot, snapshot_path
from stitching.launch.start import run_slurm_task
from stitching.runs.folder import RunFolder

__all__ = ["check_path", "check_profile", "sbatch_scripts", "settle_records", "submit_arrays", "submitted_tasks"]


def submit_arrays(
    tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: str, profile: Profile
) -> list[Submitted]:
    """Submit every task, with one sbatch call for as many as the cluster allows in an array; returns at once.

    Args:
        tasks: run folders, whose configs are written.
        folder: where logs and the record of what was submitted go; a record is written after every call of sbatch, so
            that what is in the queue is known even if a later call fails.
        cluster: the profile's name, for the record.
        profile: what to ask for.

    Raises:
        UserError: Slurm is not there, or sbatch refuses; in sbatch's own words.
    """
    submitted: list[Submitted] = []
    with current_snapshot(folder.parent) as snapshot:
        for part in _arrays(tasks, _max_array_size()):
            try:
                record = _submit_array(part, folder, cluster, profile, snapshot)
            except UserError as error:
                error.do = f"{sum(len(each.runs) for each in submitted)} runs were submitted before. {error.do}"
                raise
            submitted += record.submitted(folder)
    return submitted


def _submit_array(
    tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: str, profile: Profile, snapshot: Path
) -> Record:
    """One call of sbatch. The record is there before it: a job whose submission is cut off is found by its name."""
    from submitit.core.utils import FailedJobError

    record = new_record(folder, cluster, snapshot.name, [[run.path.name for run in task] for task in tasks])
    logs = folder / record.name
    logs.mkdir(parents=True)
    write_record(folder, record)
    paths = [[str(run.path) for run in task] for task in tasks]
    try:
        with _outside_of_jobs():
            jobs = _executor(logs, profile, snapshot).map_array(run_slurm_task, paths, [str(snapshot)] * len(paths))
    except FailedJobError as error:
        with suppress(UserError):
            settle_records(folder)  # sbatch may have given up waiting for an answer, and Slurm have taken the job
        settled = next((each for each in read_records(folder) if each.name == record.name and each.job), None)
        if settled is None:
            raise UserError(
                f"sbatch refuses the cluster {cluster!r}: {_words_of_sbatch(error)}",
                do="`--dry-run` prints the script; `--slurm KEY=VALUE` changes the profile.",
            ) from None
        return settled
    record = replace(record, job=str(jobs[0].job_id).partition("_")[0])
    write_record(folder, record)
    return record


def settle_records(folder: Path) -> None:
    """Complete the records of submissions that were cut off, or remove those whose job is not in the queue.

    Only for the one process that submits in the sweep's folder: what another is about to submit looks the same.

    Args:
        folder: as for `submit_arrays`.

    Raises:
        UserError: Slurm cannot be asked, or it holds a job whose record is damaged.
    """
    for path in damaged_records(folder):
        if job := held_jobs().get(job_name(path.stem)):
            raise UserError(
                f"{path} is damaged, and Slurm still holds the job {job}: which runs it trains is not known",
                do=f"`scancel {job}` ends it, or wait until it is over. Runs resume from their checkpoints.",
            )
    cut_off = [record for record in read_records(folder) if record.job is None]
    jobs = _jobs_of(cut_off)
    for record in cut_off:
        if record.job_name in jobs:
            record = replace(record, job=jobs[record.job_name])
            _complete_pickles(folder, record)
            write_record(folder, record)
        else:
            # Should sbatch still be under way, its job finds no pickle and ends: the runs are submitted anew.
            shutil.rmtree(folder / record.name, ignore_errors=True)
            (folder / f"{record.name}.json").unlink(missing_ok=True)


def _complete_pickles(folder: Path, record: Record) -> None:
    """Write what a record's tasks begin with, where submitit had no time to give it the name with the job's id."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    sweep = Path(record.sweep)
    snapshot = snapshot_path(sweep).with_name(record.code)
    for number, runs in enumerate(record.tasks):
        pickle = JobPaths(folder / record.name, record.task_id(number)).submitted_pickle
        if not pickle.exists():
            task = DelayedSubmission(run_slurm_task, [str(sweep / run) for run in runs], str(snapshot))
            aside = pickle.with_suffix(".tmp")
            task.dump(aside)
            aside.replace(pickle)


def sbatch_scripts(tasks: Sequence[Sequence[RunFolder]], folder: Path, profile: Profile) -> list[str]:
    """The scripts that `submit_arrays` would hand to sbatch; nothing is written."""
    return [_script(folder, profile, len(part)) for part in _arrays(tasks, _max_array_size())]


def _script(folder: Path, profile: Profile, tasks: int) -> str:
    executor = _executor(folder / "NAME", profile, snapshot_path(folder.parent))
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    script: str = executor._make_submission_file_text(executor._submitit_command_str, "dry-run")
    return script


def check_profile(cluster: str, profile: Profile) -> None:
    """Ask Slurm whether it would take a job of this profile, before anything is written; one that waits is fine.

    Raises:
        UserError: it would not, or Slurm cannot be asked.
    """
    need_program("sbatch")
    try:
        ask_slurm(["sbatch", "--test-only"], given=_script(Path("/"), profile, 1))  # any folder: it does not run
    except UserError as error:
        if not error.problem.startswith("sbatch --test-only failed"):
            raise
        words = error.problem.splitlines()[-1].removeprefix("sbatch --test-only failed: ")
        words = words.removeprefix("allocation failure: ")
        raise UserError(
            f"Slurm would not take a job of the cluster {cluster!r}: {words}",
            do="Change its profile in sbatch/clusters.yml, or for this time with --slurm KEY=VALUE.",
        ) from None


def submitted_tasks(folder: Path) -> list[Submitted]:
    """What was submitted from a sweep's folder, oldest first; `folder` as `submit_arrays` got it.

    Slurm is asked only where a submission was cut off, and what it cannot say is left out.
    """
    records = read_records(folder)
    jobs: dict[str, str] = {}
    with suppress(UserError):
        jobs = _jobs_of([record for record in records if record.job is None])
    named = (replace(record, job=record.job or jobs.get(record.job_name)) for record in records)
    return [task for record in named for task in record.submitted(folder)]


def _jobs_of(records: Sequence[Record]) -> dict[str, str]:
    """The ids of the jobs that were submitted with these records and that Slurm still holds, by name.

    Raises:
        UserError: Slurm cannot be asked.
    """
    jobs = held_jobs() if records else {}
    return {record.job_name: jobs[record.job_name] for record in records if record.job_name in jobs}


def _arrays(tasks: Sequence[Sequence[RunFolder]], most: int) -> Iterator[Sequence[Sequence[RunFolder]]]:
    for start in range(0, len(tasks), most):
        yield tasks[start : start + most]


def _max_array_size() -> int:
    """How many tasks an array may have: the limit is on the index, which begins at 0."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask_slurm(["scontrol", "show", "config"]), re.MULTILINE)
    return int(found[1]) if found else 1001


def check_path(folder: Path) -> None:
    """Make sure that logs can be in `folder`. Raises `UserError` if batch scripts cannot have its path in them."""
    character = unfit_character(str(folder))
    if character is not None:
        raise UserError(
            f"the path {str(folder)!r} has the character {character!r}", allowed=ALLOWED,
            do=f"{WHY} Set save_dir in the sweep, or rename the folder.",
        )  # fmt: skip


def _executor(logs: Path, profile: Profile, snapshot: Path) -> Any:
    from submitit import SlurmExecutor

    check_path(logs)
    executor = SlurmExecutor(logs)
    executor.update_parameters(
        job_name=job_name(logs.name),
        partition=profile.partition,
        constraint=profile.constraint,
        account=profile.account,
        gpus_per_node=profile.gpus or None,
        ntasks_per_node=profile.processes,
        srun_args=["--kill-on-bad-exit=1"] if profile.processes > 1 else [],  # no process can go on without the others
        cpus_per_task=profile.cpus,
        mem=f"{round(profile.memory_gb * 1024)}M" if profile.memory_gb else None,
        time=profile.minutes,
        signal_delay_s=profile.signal_seconds,
        array_parallelism=profile.array_parallelism,
        # As many threads wherever it starts again: on a CPU their number changes the last bits of a result. Published
        # weights were fetched by `submit`. And a job in the wrong environment must not start.
        setup=[
            f"export OMP_NUM_THREADS=${{OMP_NUM_THREADS:-{profile.cpus}}}",
            "export HF_HUB_OFFLINE=1",
            # With GPUs a task must not train on the CPU. And a job that submits others may have left its own number.
            f"export STITCHING_GPUS={profile.gpus}" if profile.gpus else "unset STITCHING_GPUS",
            "set -e",
            *profile.setup,
            f"export PYTHONPATH={shlex.quote(str(snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",  # before what setup sets
            *(f"export {name}={value}" for name, value in PYTHON_OPTIONS.items()),
        ],
        stderr_to_stdout=True,
        wckey=None,
        additional_parameters=dict(profile.sbatch),
    )
    return executor


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Without what the job in which we may be has in its environment: a new one would inherit it, and take it as said.

    submitit's clean_env also takes SLURM_CONF away, which says where Slurm is, and the user's own SBATCH_ defaults.
    """
    inherited = {}
    if "SLURM_JOB_ID" in os.environ:
        names = [name for name in os.environ if name.startswith(("SLURM_", "SRUN_")) and name != "SLURM_CONF"]
        inherited = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(inherited)


def _words_of_sbatch(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "error" in line.lower()]
    return (lines or str(error).strip().splitlines() or ["no reason given"])[-1].removeprefix("sbatch: error: ").strip()
