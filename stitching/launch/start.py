"""Where a task starts, on Slurm and on this machine: it runs the snapshot that it was submitted with, or says why not.

Nothing else of the package is imported before the snapshot is known to be whole.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from stitching.runs.checked import Damaged, read_checked_json
from stitching.runs.code import PACKAGE, code_digest

__all__ = ["check_code", "run_slurm_task"]


def check_code(snapshot: Path) -> None:
    """Make sure that this process runs the code in the folder `snapshot`, whose name is its digest.

    Raises:
        SystemExit: it runs other code, or the snapshot is damaged; with a message for the log and exit code 1.
    """
    if snapshot.resolve() / PACKAGE.name != PACKAGE:
        sys.exit(
            f"error: the task was submitted with the code in {snapshot}, but Python imports {PACKAGE}; "
            "does something in the profile's setup change sys.path?"
        )
    try:
        read_checked_json(snapshot / "code.json")
        damaged = code_digest() != snapshot.name
    except (OSError, Damaged):
        damaged = True
    if damaged:
        sys.exit(f"error: the code in {snapshot} is damaged, so nothing was run; `stitching retry` stores it again")


def run_slurm_task(folders: Sequence[str], snapshot: str) -> None:
    """What Slurm starts through submitit, which pickles this function by its name, with paths as arguments."""
    check_code(Path(snapshot))
    from stitching.launch.slurm_task import run_slurm_task as run

    run(folders)


def _main(arguments: list[str]) -> int:
    """What a pool on this machine starts: a snapshot and run folders."""
    check_code(Path(arguments[0]))
    from stitching.launch.tasks import main

    return main(arguments[1:])


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
