"""Slurm: tasks as job arrays through submitit, and what the queue says of them.

What is done is known from the run folders alone. Slurm is asked for one thing only: which tasks it still holds.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stitching.config.clusters import Profile
from stitching.config.errors import UserError
from stitching.config.script_text import ALLOWED, WHY, unfit_character
from stitching.sweeps.records import (
    Record,
    Submitted,
    damaged_records,
    job_name,
    new_record,
    read_records,
    write_record,
)
from stitching.sweeps.snapshots import PYTHON_OPTIONS, current_snapshot, snapshot_path
from stitching.sweeps.start import run_slurm_task
from stitching.training.files import RunFolder

__all__ = [
    "Ended",
    "JobState",
    "Submitted",
    "cancel",
    "check_controller",
    "check_path",
    "check_profile",
    "ended_jobs",
    "job_states",
    "sbatch_scripts",
    "settle_records",
    "submit_arrays",
    "submitted_tasks",
]

PATIENCE = 60  # seconds that a command of Slurm's may take
PING_PATIENCE = 10  # seconds for the question whether its controller is there


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a task: PENDING, RUNNING, ..., and why it waits."""

    state: str
    reason: str = ""


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
        if job := _held_jobs().get(job_name(path.stem)):
            raise UserError(
                f"{path} is damaged, and Slurm still holds the job {job}: which runs it trains is not known",
                do=f"`scancel {job}` ends it, or wait until it is over. Runs go on from their checkpoints.",
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
    _need("sbatch")
    try:
        _asked(["sbatch", "--test-only"], given=_script(Path("/"), profile, 1))  # any folder: it does not run
    except UserError as error:
        if not error.problem.startswith("sbatch --test-only failed"):
            raise
        words = error.problem.splitlines()[-1].removeprefix("sbatch --test-only failed: ")
        words = words.removeprefix("allocation failure: ")
        raise UserError(
            f"Slurm would not take a job of the cluster {cluster!r}: {words}",
            do="Change its profile in sbatch/clusters.yml, or for this time with --slurm KEY=VALUE.",
        ) from None


def check_controller() -> None:
    """Make sure that Slurm's controller answers: a ping says so at once, every other command takes long to give up.

    Raises:
        UserError: it does not, or there is no Slurm here.
    """
    _need("scontrol")
    try:
        _asked(["scontrol", "ping"], patience=PING_PATIENCE)
    except UserError:
        raise UserError(
            "Slurm's controller does not answer", do="Try again when `scontrol ping` says that it is UP."
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
    jobs = _held_jobs() if records else {}
    return {record.job_name: jobs[record.job_name] for record in records if record.job_name in jobs}


def _held_jobs() -> dict[str, str]:
    """The ids of this user's jobs that Slurm holds, by the jobs' names. Raises `UserError` if it cannot be asked."""
    return _by_name(_asked(["squeue", "--me", "-h", "-o", "%F|%j"]))


def _by_name(listed: str) -> dict[str, str]:
    return {name: re.split("[_+]", job)[0] for job, _, name in (line.partition("|") for line in listed.splitlines())}


def job_states() -> dict[str, JobState]:
    """Every task of this user's that Slurm holds, waiting or running, by id: `123_4`, or `123` without an array.

    Raises:
        UserError: Slurm cannot be asked.
    """
    check_controller()
    listed = _asked(["squeue", "--me", "-h", "-r", "-o", "%F|%K|%T|%r"])
    states = {}
    for line in listed.splitlines():
        job, index, state, reason = line.strip().split("|", 3)
        states[job if index == "N/A" else f"{job}_{index}"] = JobState(state, "" if reason == "None" else reason)
    return states


@dataclass(frozen=True)
class Ended:
    """How a task ended as accounting has it: TIMEOUT, NODE_FAIL, ...; and the nodes that failed under it."""

    state: str
    failed_nodes: tuple[str, ...] = ()
    code: int = 0  # its exit code; of a task that a signal ended, the signal's number below zero


_FIELDS = "JobID,State,ExitCode,DerivedExitCode,NodeList"
_FATAL_SIGNALS = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
_SIGNAL_OF_OOM = 125  # no signal of any system's: Slurm's own, for a task that took too much memory


def ended_jobs(ids: Sequence[str]) -> dict[str, Ended]:
    """How tasks ended, by id, each with all its starts; nothing where there is no accounting."""
    if not ids:
        return {}
    jobs = ",".join(sorted({each.partition("_")[0] for each in ids}))
    try:  # every start of a task has a line, the newest last
        listed = _asked(["sacct", "-X", "-D", "-n", "-P", "-o", _FIELDS, "-j", jobs])
    except UserError:
        return {}
    ended: dict[str, Ended] = {}
    for line in listed.splitlines():
        job, state, code, step_code, nodes = line.split("|", 4)
        state = (state.split() or [""])[0]
        ended_with = _exit_code(code, step_code)
        if ended_with == -_SIGNAL_OF_OOM:
            state = "OUT_OF_MEMORY"
        failed = _node_names(nodes) if state in ("NODE_FAIL", "BOOT_FAIL") else ()
        for each in _elements(job):
            before = ended[each].failed_nodes if each in ended else ()
            ended[each] = Ended(state, tuple(dict.fromkeys((*before, *failed))), ended_with)
    return ended


def _exit_code(script: str, steps: str) -> int:
    """How a job ended, by sacct's `ExitCode` (of its script) and `DerivedExitCode` (of its worst step): `1:0`, `0:9`.

    Returns:
        The exit code; of a job that a signal ended, the signal's number below zero.
    """
    found = [re.fullmatch(r"(\d+):(\d+)", each) for each in (script, steps)]
    (code, number), (step_code, step_number) = ((int(each[1]), int(each[2])) if each else (0, 0) for each in found)
    if number or step_number:
        return -(number or step_number)
    # A script that ends with 137, because srun was killed by signal 9, has the code 9 in accounting.
    return step_code or (-code if code in _FATAL_SIGNALS else code)


def _elements(job: str) -> list[str]:
    """The tasks that a line of sacct is about: one, or those that never began, together as `12_[3-5,8%2]`."""
    found = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job)
    if not found:
        return [job]
    elements: list[str] = []
    for part in found[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        elements += [f"{found[1]}_{n}" for n in range(int(first), int(last or first) + 1, int(step or 1))]
    return elements


def _node_names(nodes: str) -> tuple[str, ...]:
    """`node[1-2],other` as Slurm writes it, as single names."""
    if nodes in ("", "None assigned"):
        return ()
    return tuple(_asked(["scontrol", "show", "hostnames", nodes]).split()) if "[" in nodes else tuple(nodes.split(","))


def cancel(ids: Sequence[str]) -> None:
    """Cancel tasks. Raises `UserError` if Slurm cannot be asked."""
    for start in range(0, len(ids), 500):  # a command line has an end
        _asked(["scancel", *ids[start : start + 500]])


# ------------------------------------------------------------------------------------------------------ the pieces


def _arrays(tasks: Sequence[Sequence[RunFolder]], most: int) -> Iterator[Sequence[Sequence[RunFolder]]]:
    for start in range(0, len(tasks), most):
        yield tasks[start : start + most]


def _max_array_size() -> int:
    """How many tasks an array may have: the limit is on the index, which begins at 0."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _asked(["scontrol", "show", "config"]), re.MULTILINE)
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


def _asked(command: list[str], given: str | None = None, patience: int | None = None) -> str:
    """What a command of Slurm's prints.

    Args:
        command: the program and its arguments.
        given: its standard input.
        patience: seconds that it may take; None: `PATIENCE`.

    Raises:
        UserError: it is not there, fails, or takes longer.
    """
    patience = PATIENCE if patience is None else patience
    _need(command[0])
    try:
        whole = os.environ | {"SLURM_BITSTR_LEN": "0"}  # else sacct cuts long lists of tasks off
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=patience, check=False, env=whole
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"Slurm does not answer: {' '.join(command[:2])} took more than {patience} s") from None
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


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


def _need(program: str) -> None:
    if shutil.which(program) is None:
        raise UserError(
            f"there is no Slurm here: {program} is not found",
            do="Log in to a machine of the cluster, or use `--cluster local`.",
        )


def _words_of_sbatch(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if "error" in line.lower()]
    return (lines or str(error).strip().splitlines() or ["no reason given"])[-1].removeprefix("sbatch: error: ").strip()
