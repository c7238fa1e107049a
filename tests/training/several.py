"""Processes that train together, started by torchrun: `python several.py FOLDER... + FOLDER...` trains task after task.

The folders of a task, between plus signs, are trained as a pack. STITCHING_SABOTAGE in the environment is Python that
each process runs first; it knows its `rank`.
"""

from __future__ import annotations

import os
import signal  # noqa: F401 - for sabotage
import subprocess
import sys
from itertools import groupby
from pathlib import Path

NTH = """
def nth(function, n, instead):
    calls = [0]
    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == n:
            instead(*args, **kwargs)
        return function(*args, **kwargs)
    return wrapped
"""


def start(processes: int, *arguments: object, folder: Path, sabotage: str = "") -> subprocess.Popen[str]:
    """Start so many processes of `python several.py ARGUMENTS`, which meet at a port of their own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [*launcher, __file__, *map(str, arguments)],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "STITCHING_SABOTAGE": sabotage},
    )  # fmt: skip


def run(processes: int, *arguments: object, folder: Path, sabotage: str = "") -> tuple[int, str, str]:
    """As `start`, to the end: exit code, output, errors."""
    process = start(processes, *arguments, folder=folder, sabotage=sabotage)
    try:
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    return process.returncode, out, err


def _main(arguments: list[str]) -> None:
    exec(os.environ.get("STITCHING_SABOTAGE", ""), {**globals(), "rank": int(os.environ["RANK"])})
    if arguments[0] == "train":
        from stitching.cli import main

        sys.argv = ["stitching", *arguments]
        main()
        return
    from stitching.launch.tasks import run_task
    from stitching.runs.stopping import Interrupted

    failures = {}
    try:
        for is_plus, folders in groupby(arguments, lambda each: each == "+"):
            if not is_plus:
                failures |= run_task([Path(folder) for folder in folders])
    except Interrupted:
        sys.exit(130)
    for name, reason in failures.items():
        print(f"{name}: {reason}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    _main(sys.argv[1:])
