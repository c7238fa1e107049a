"""Asking Slurm by its commands: what they print, or a `UserError` in a user's words."""

from __future__ import annotations

import os
import shutil
import subprocess

from stitching.config.errors import UserError

__all__ = ["ask_slurm", "check_controller", "need_program", "node_names"]

PATIENCE = 60  # seconds that a command of Slurm's may take
PING_PATIENCE = 10  # seconds for the question whether its controller is there


def ask_slurm(command: list[str], stdin: str | None = None, patience: int | None = None) -> str:
    """What a command of Slurm's prints.

    Args:
        command: the program and its arguments.
        stdin: its standard input.
        patience: seconds that it may take; None: `PATIENCE`.

    Raises:
        UserError: it is not there, fails, or takes longer.
    """
    patience = PATIENCE if patience is None else patience
    need_program(command[0])
    try:
        environment = os.environ | {"SLURM_BITSTR_LEN": "0"}  # else sacct cuts long lists of tasks off
        process = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=patience, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"Slurm does not answer: {' '.join(command[:2])} took more than {patience} s") from None
    if process.returncode:
        raise UserError(f"{' '.join(command[:3])} failed: {process.stderr.strip() or process.stdout.strip()}")
    return process.stdout


def need_program(program: str) -> None:
    if shutil.which(program) is None:
        raise UserError(
            f"there is no Slurm here: {program} is not found",
            do="Log in to a machine of the cluster, or use `--cluster local`.",
        )


def check_controller() -> None:
    """Make sure that Slurm's controller answers: a ping says so at once, every other command takes long to give up.

    Raises:
        UserError: it does not, or there is no Slurm here.
    """
    need_program("scontrol")
    try:
        ask_slurm(["scontrol", "ping"], patience=PING_PATIENCE)
    except UserError:
        raise UserError(
            "Slurm's controller does not answer", do="Try again when `scontrol ping` says that it is UP."
        ) from None


def node_names(nodes: str) -> tuple[str, ...]:
    """`node[1-2],other` as Slurm writes it, as single names."""
    if nodes in ("", "None assigned"):
        return ()
    return tuple(ask_slurm(["scontrol", "show", "hostnames", nodes]).split())
