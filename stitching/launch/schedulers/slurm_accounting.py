"""How tasks ended, as Slurm's accounting (sacct) has it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from stitching.config.errors import UserError
from stitching.launch.endings import ending_of_process, read_end
from stitching.launch.records import Submitted
from stitching.launch.schedulers import TaskEnd
from stitching.launch.schedulers.slurm_commands import ask_slurm, node_names

__all__ = ["ends_by_id", "exit_code", "task_ids_of"]

_FIELDS = "JobID,State,ExitCode,DerivedExitCode,NodeList"
_FATAL_SIGNALS = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
_SIGNAL_OF_OOM = 125  # no signal of any system's: Slurm's own, for a task that took too much memory
# Cause and reason, by Slurm's word.
_ENDS = {
    "TIMEOUT": ("time limit", "time limit"),
    "OUT_OF_MEMORY": ("out of memory", "out of memory (ask for more with memory_gb)"),
    "NODE_FAIL": ("node failure", "node failure"),
    "CANCELLED": ("cancelled", "cancelled"),
    "PREEMPTED": ("preempted", "preempted"),
    "BOOT_FAIL": ("node failure", "the node did not start"),
    "DEADLINE": ("time limit", "its deadline passed"),
}


def ends_by_id(tasks: Sequence[Submitted]) -> dict[str, TaskEnd]:
    """How tasks ended, by id, with the nodes that failed under any of their starts; {} where there is no accounting."""
    if not tasks:
        return {}
    logs = {task.id: task.log for task in tasks}
    jobs = ",".join(sorted({id.partition("_")[0] for id in logs}))
    newest: dict[str, tuple[str, int]] = {}
    failed_nodes: dict[str, dict[str, None]] = {}
    try:  # every start of a task has a line, the newest last
        for line in ask_slurm(["sacct", "-X", "-D", "-n", "-P", "-o", _FIELDS, "-j", jobs]).splitlines():
            job, state, script_code, step_code, nodes = line.split("|", 4)
            state = (state.split() or [""])[0]
            ended_with = exit_code(script_code, step_code)
            if ended_with == -_SIGNAL_OF_OOM:
                state = "OUT_OF_MEMORY"
            failed = node_names(nodes) if state in ("NODE_FAIL", "BOOT_FAIL") else ()
            for id in task_ids_of(job):
                newest[id] = state, ended_with
                failed_nodes.setdefault(id, {}).update(dict.fromkeys(failed))
    except UserError:
        return {}
    ends = {}
    for id, (state, code) in newest.items():
        if id in logs:
            cause, reason = _cause_and_reason(state, code, logs[id])
            ends[id] = TaskEnd(cause, reason, tuple(failed_nodes[id]))
    return ends


def _cause_and_reason(state: str, code: int, log: Path) -> tuple[str, str]:
    if state == "FAILED":
        ending = ending_of_process(code, read_end(log))
        return ending.cause, ending.reason
    return _ENDS.get(state, ("error", f"Slurm says {state}"))


def exit_code(script: str, steps: str) -> int:
    """How a job ended, by sacct's `ExitCode` (of its script) and `DerivedExitCode` (of its worst step): `1:0`, `0:9`.

    Returns:
        The exit code; of a job that a signal ended, the signal's number below zero.
    """
    matches = [re.fullmatch(r"(\d+):(\d+)", code) for code in (script, steps)]
    (code, number), (step_code, step_number) = ((int(m[1]), int(m[2])) if m else (0, 0) for m in matches)
    if number or step_number:
        return -(number or step_number)
    # A script that ends with 137, because srun was killed by signal 9, has the code 9 in accounting.
    return step_code or (-code if code in _FATAL_SIGNALS else code)


def task_ids_of(job: str) -> list[str]:
    """The tasks that a line of sacct is about: one, or those that never began, together as `12_[3-5,8%2]`."""
    array = re.fullmatch(r"(\d+)_\[([\d,:-]+)(?:%\d+)?\]", job)
    if not array:
        return [job]
    ids: list[str] = []
    for part in array[2].split(","):
        span, _, step = part.partition(":")
        first, _, last = span.partition("-")
        ids += [f"{array[1]}_{n}" for n in range(int(first), int(last or first) + 1, int(step or 1))]
    return ids
