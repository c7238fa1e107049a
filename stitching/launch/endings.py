"""How a task's process ended, if it could not say so itself: from its signal or exit code, and its output."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from stitching.runs.causes import ERROR, KILLED, OUT_OF_MEMORY

__all__ = ["Ending", "count_oom_kills", "ending_of_log", "ending_of_process", "read_end"]

# What Python, torch, CUDA, C++, the loader of libraries, the system and Slurm print where memory is short. Neither a
# full "static TLS block" nor a disk mounted `noexec` counts.
_NO_MEMORY = re.compile(
    r"MemoryError|OutOfMemoryError|can(?:not|'t) allocate memory(?! in static TLS)|not enough memory|out of memory"
    r"|_ALLOC_FAILED|std::bad_alloc|oom[-_ ]kill|failed to map segment from shared object(?!: Operation not permitted)",
    re.IGNORECASE,
)
# What Slurm writes into a job's log as it ends the job.
_SLURM_SIGNS = {
    "DUE TO TIME LIMIT": ("time limit", "time limit"),
    "DUE TO PREEMPTION": ("preempted", "preempted"),
    "DUE TO NODE FAILURE": ("node failure", "node failure"),
}
_EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception|Interrupt|Exit)\b(?::.*)?")  # the last line of a traceback
_CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV")  # crashes of the process itself
_VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True)
class Ending:
    """Why a process ended: one of the causes that `status` knows, and a line of explanation."""

    cause: str
    reason: str


def ending_of_process(code: int, output: str, *, oom_kills: int = 0) -> Ending:
    """How a failed process ended.

    Args:
        code: its exit code; if a signal ended it, minus the signal's number, or 128 plus the number as in shells.
        output: what it printed last.
        oom_kills: how many processes the kernel killed for memory while it ran.
    """
    output = _last_lines(output)
    last = _telling_line(output)
    no_memory = _NO_MEMORY.search(output) is not None
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if not number:
        return Ending(OUT_OF_MEMORY if no_memory else ERROR, last or f"its process ended with exit code {code}")
    name = _signal_name(number)
    reason = f"killed by {name}"
    if number == signal.SIGKILL and (oom_kills or no_memory):
        return Ending(OUT_OF_MEMORY, f"{reason}: memory ran out")
    if name in _CRASHES and last:
        reason += f": {last}"
    return Ending(OUT_OF_MEMORY if no_memory else KILLED, reason)


def ending_of_log(output: str) -> Ending | None:
    """How a job ended, by what Slurm or the process wrote last into its log; None if that says nothing."""
    signs = {output.rfind(sign): ending for sign, ending in _SLURM_SIGNS.items() if sign in output}
    if signs:
        return Ending(*signs[max(signs)])
    if _NO_MEMORY.search(output):
        return Ending(OUT_OF_MEMORY, _telling_line(output) or OUT_OF_MEMORY)
    return None


def read_end(path: Path, size: int = 4000) -> str:
    """The last lines of a log; nothing where it cannot be read."""
    try:
        with open(path, "rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - size))
            return _last_lines(log.read().decode(errors="replace"))
    except OSError:
        return ""


def count_oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started, in containers (cgroups) too."""
    try:
        counter = re.search(r"^oom_kill (\d+)$", _VMSTAT.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(counter[1]) if counter else 0


def _last_lines(output: str) -> str:
    return "\n".join(output.splitlines()[-20:])


def _telling_line(output: str) -> str:
    """The most telling line: the last traceback's exception, else the last line that is not Slurm's."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    from_process = [line for line in lines if not line.startswith(("srun:", "slurmstepd"))]
    last_line = (from_process or lines or [""])[-1]
    return next((line for line in reversed(from_process) if _EXCEPTION.fullmatch(line)), last_line)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
