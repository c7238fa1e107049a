"""How tasks ended, as Slurm's accounting (sacct) has it."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from stitching.config.errors import UserError
from stitching.launch.schedulers.slurm_commands import ask_slurm, node_names

__all__ = ["Ended", "ended_jobs"]

_FIELDS = "JobID,State,ExitCode,DerivedExitCode,NodeList"
_FATAL_SIGNALS = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM)
_SIGNAL_OF_OOM = 125  # no signal of any system's: Slurm's own, for a task that took too much memory


@dataclass(frozen=True)
class Ended:
    """How a task ended as accounting has it: TIMEOUT, NODE_FAIL, ...; and the nodes that failed under it."""

    state: str
    failed_nodes: tuple[str, ...] = ()
    code: int = 0  # its exit code; of a task that a signal ended, the signal's number below zero


def ended_jobs(ids: Sequence[str]) -> dict[str, Ended]:
    """How tasks ended, by id, each with all its starts; nothing where there is no accounting."""
    if not ids:
        return {}
    jobs = ",".join(sorted({each.partition("_")[0] for each in ids}))
    try:  # every start of a task has a line, the newest last
        listed = ask_slurm(["sacct", "-X", "-D", "-n", "-P", "-o", _FIELDS, "-j", jobs])
    except UserError:
        return {}
    ended: dict[str, Ended] = {}
    for line in listed.splitlines():
        job, state, code, step_code, nodes = line.split("|", 4)
        state = (state.split() or [""])[0]
        ended_with = _exit_code(code, step_code)
        if ended_with == -_SIGNAL_OF_OOM:
            state = "OUT_OF_MEMORY"
        failed = node_names(nodes) if state in ("NODE_FAIL", "BOOT_FAIL") else ()
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
