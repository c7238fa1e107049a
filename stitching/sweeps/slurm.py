"""Slurm: tasks as job arrays through submitit, and what the queue says of them.

What is done is known from the run folders alone. Slurm is asked for one thing only: which tasks it still holds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stitching.config.clusters import Profile
from stitching.config.errors import UserError
from stitching.config.identity import code_digest
from stitching.config.script_text import ALLOWED, WHY, unfit_character
from stitching.training.files import RunFolder, write_whole

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


@dataclass(frozen=True)
class Submitted:
    """One element of an array that was submitted: its id in Slurm, and its runs by name."""

    id: str
    cluster: str
    runs: tuple[str, ...]
    log: Path


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
    from submitit.core.utils import FailedJobError

    from stitching.sweeps.slurm_task import run_slurm_task  # it brings torch along, which asking Slurm does not need

    code = code_digest()
    submitted: list[Submitted] = []
    for part in _arrays(tasks, _max_array_size()):
        logs = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{time.monotonic_ns() % 10**6:06}"
        executor = _executor(logs, profile)
        paths = [[str(run.path) for run in task] for task in part]
        try:
            with _outside_of_jobs():
                jobs = executor.map_array(run_slurm_task, paths, [code] * len(paths))
        except FailedJobError as error:
            shutil.rmtree(logs, ignore_errors=True)  # pickles that no job will read
            raise UserError(
                f"sbatch refuses the cluster {cluster!r}: {_words_of_sbatch(error)}",
                do=f"{sum(len(each.runs) for each in submitted)} runs were submitted before. `--dry-run` prints the "
                "script; `--slurm KEY=VALUE` changes the profile.",
            ) from None
        new = [
            Submitted(str(job.job_id), cluster, tuple(run.path.name for run in task), Path(job.paths.stdout))
            for job, task in zip(jobs, part, strict=True)
        ]
        _record(folder / f"{new[0].id.partition('_')[0]}.json", new)
        submitted += new
    return submitted


def sbatch_scripts(tasks: Sequence[Sequence[RunFolder]], folder: Path, profile: Profile) -> list[str]:
    """The scripts that `submit_arrays` would hand to sbatch; nothing is written."""
    return [_script(folder, profile, len(part)) for part in _arrays(tasks, _max_array_size())]


def _script(folder: Path, profile: Profile, tasks: int) -> str:
    executor = _executor(folder / "NAME", profile)
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
    """What was submitted from a sweep's folder, oldest first; `folder` as `submit_arrays` got it."""
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem)):
        with suppress(OSError, ValueError, KeyError):  # a record is written whole; this is for other people's files
            for task in json.loads(path.read_text()):
                found.append(Submitted(task["id"], task["cluster"], tuple(task["runs"]), Path(task["log"])))
    return found


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


def ended_jobs(ids: Sequence[str]) -> dict[str, Ended]:
    """How tasks ended, by id, each with all its starts; nothing where there is no accounting."""
    if not ids:
        return {}
    jobs = ",".join(sorted({each.partition("_")[0] for each in ids}))
    try:  # every start of a task has a line, the newest last
        listed = _asked(["sacct", "-X", "-D", "-n", "-P", "-o", "JobID,State,NodeList", "-j", jobs])
    except UserError:
        return {}
    ended: dict[str, Ended] = {}
    for line in listed.splitlines():
        job, state, nodes = line.split("|", 2)
        state = (state.split() or [""])[0]
        failed = _node_names(nodes) if state in ("NODE_FAIL", "BOOT_FAIL") else ()
        for each in _elements(job):
            before = ended[each].failed_nodes if each in ended else ()
            ended[each] = Ended(state, tuple(dict.fromkeys((*before, *failed))))
    return ended


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


def _executor(logs: Path, profile: Profile) -> Any:
    from submitit import SlurmExecutor

    check_path(logs)
    executor = SlurmExecutor(logs)
    executor.update_parameters(
        job_name="stitching",
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
            "set -e",
            *profile.setup,
        ],
        stderr_to_stdout=True,
        wckey=None,
        additional_parameters=dict(profile.sbatch),
    )
    return executor


def _record(path: Path, tasks: list[Submitted]) -> None:
    data = [{"id": t.id, "cluster": t.cluster, "runs": list(t.runs), "log": str(t.log)} for t in tasks]
    write_whole(path, lambda file: file.write(json.dumps(data, indent=1).encode()))


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
