"""Slurm: tasks as job arrays, submitted through submitit.

What is done is known from the run folders alone. Slurm is asked for one thing only: which tasks it still holds.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stitching.config.clusters import Profile
from stitching.config.errors import UserError
from stitching.config.script_text import ALLOWED, WHY, unfit_character
from stitching.launch.records import Submitted
from stitching.launch.schedulers import SCHEDULERS, Batch, Cluster, TaskEnd, TaskState
from stitching.launch.schedulers.queue import QueueScheduler
from stitching.launch.schedulers.slurm_accounting import ends_by_id
from stitching.launch.schedulers.slurm_commands import ask_slurm, check_controller, need_program
from stitching.launch.schedulers.slurm_queue import cancel_tasks, held_jobs, held_tasks
from stitching.launch.snapshots import PYTHON_OPTIONS
from stitching.launch.start import run_slurm_task

__all__ = ["Slurm", "largest_array"]


@SCHEDULERS.register("slurm")
class Slurm(QueueScheduler):
    """Slurm, by its own commands and submitit."""

    profile = Profile
    log_name = "{id}_0_log.out"  # submitit's

    def check_reachable(self) -> None:
        """A ping says at once whether the controller answers; every other command takes long to give up."""
        check_controller()

    def check(self, cluster: Cluster, folder: Path, *, submits: bool) -> None:
        """Ask sbatch whether it would take a job of this profile; one that would wait is fine."""
        _check_path(folder)
        need_program("sbatch")
        if submits:
            _test_submission(cluster, self.script(_ONE_TASK, cluster.profile))

    def largest_batch(self) -> int:
        """How many tasks an array may have."""
        return largest_array()

    def submit(self, batch: Batch, cluster: Cluster) -> str:
        """One call of sbatch, through submitit; returns the id of the array, or of the one job."""
        from submitit.core.utils import FailedJobError

        assert isinstance(cluster.profile, Profile)
        paths = [[str(path) for path in task] for task in batch.tasks]
        snapshots = [str(batch.snapshot)] * len(paths)
        try:
            with _outside_of_jobs():
                jobs = _executor(batch, cluster.profile).map_array(run_slurm_task, paths, snapshots)
        except FailedJobError as error:
            raise UserError(
                f"sbatch refuses the cluster {cluster.name!r}: {_words_of_sbatch(error)}",
                do="`--dry-run` prints the script; `--slurm KEY=VALUE` changes the profile.",
            ) from None
        return str(jobs[0].job_id).partition("_")[0]

    def script(self, batch: Batch, profile: Any) -> str:
        """The batch script."""
        executor = _executor(batch, profile)
        if len(batch.tasks) > 1:
            executor.parameters["map_count"] = len(batch.tasks)
        script: str = executor._make_submission_file_text(executor._submitit_command_str, "dry-run")
        return script

    def complete(self, batch: Batch, job: str) -> None:
        """Write what the tasks begin with, where submitit had no time to name it after the job's id."""
        from submitit.core.utils import DelayedSubmission, JobPaths

        for id, paths in zip(batch.ids(job), batch.tasks, strict=True):
            pickle = JobPaths(batch.folder, id).submitted_pickle
            if not pickle.exists():
                task = DelayedSubmission(run_slurm_task, [str(path) for path in paths], str(batch.snapshot))
                aside = pickle.with_suffix(".tmp")
                task.dump(aside)
                aside.replace(pickle)

    def states(self) -> Mapping[str, TaskState]:
        """Every task of this user's that Slurm holds."""
        return held_tasks()

    def ends(self, tasks: Sequence[Submitted]) -> Mapping[str, TaskEnd]:
        """How tasks ended, as accounting has it; nothing where there is no accounting."""
        return ends_by_id(tasks)

    def jobs_by_name(self) -> Mapping[str, str]:
        """The ids of this user's jobs, by the jobs' names."""
        return held_jobs()

    def cancel(self, ids: Sequence[str]) -> None:
        """Call scancel."""
        cancel_tasks(ids)

    def without_nodes(self, profile: Any, nodes: Sequence[str]) -> Any:
        """Add the nodes to sbatch's option `exclude`."""
        before = profile.sbatch.get("exclude")
        excluded = dict.fromkeys([*([str(before)] if before else []), *nodes])
        return profile.model_copy(update={"sbatch": {**profile.sbatch, "exclude": ",".join(excluded)}})


_ONE_TASK = Batch("dry-run", Path("/NAME"), ((),), Path("/"))  # any folder: it does not run


def _test_submission(cluster: Cluster, script: str) -> None:
    try:
        ask_slurm(["sbatch", "--test-only"], stdin=script)
    except UserError as error:
        if not error.problem.startswith("sbatch --test-only failed"):
            raise
        words = error.problem.splitlines()[-1].removeprefix("sbatch --test-only failed: ")
        words = words.removeprefix("allocation failure: ")
        raise UserError(
            f"Slurm would not take a job of the cluster {cluster.name!r}: {words}",
            do="Change its profile in sbatch/clusters.yml, or for this time with --slurm KEY=VALUE.",
        ) from None


def largest_array() -> int:
    """How many tasks an array may have: the limit is on the index, which begins at 0."""
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask_slurm(["scontrol", "show", "config"]), re.MULTILINE)
    return int(match[1]) if match else 1001


def _check_path(folder: Path) -> None:
    character = unfit_character(str(folder))
    if character is not None:
        raise UserError(
            f"the path {str(folder)!r} has the character {character!r}", allowed=ALLOWED,
            do=f"{WHY} Set save_dir in the sweep, or rename the folder.",
        )  # fmt: skip


def _executor(batch: Batch, profile: Profile) -> Any:
    from submitit import SlurmExecutor

    _check_path(batch.folder)
    executor = SlurmExecutor(batch.folder)
    executor.update_parameters(
        job_name=batch.name,
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
            # before what setup sets
            f"export PYTHONPATH={shlex.quote(str(batch.snapshot))}${{PYTHONPATH:+:$PYTHONPATH}}",
            *(f"export {name}={value}" for name, value in PYTHON_OPTIONS.items()),
        ],
        stderr_to_stdout=True,
        wckey=None,
        additional_parameters=dict(profile.sbatch),
    )
    return executor


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables of the job in which this process may run: a new job would inherit them as its own settings.

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
