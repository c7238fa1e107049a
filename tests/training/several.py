"""Processes that train together: `python several.py FOLDER... + FOLDER...` trains task after task.

The folders of a task, between plus signs, are trained as a pack. STITCHING_SABOTAGE in the environment is Python that
each process runs first; it knows its `rank`.
"""

from __future__ import annotations

import os
import signal  # noqa: F401 - for sabotage
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


def run(
    processes: int, *arguments: object, folder: Path, sabotage: str = "", with_torchrun: bool = False
) -> tuple[int, str, str]:
    """Run so many processes of `python several.py ARGUMENTS`: exit code, output, errors."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STITCHING_SABOTAGE": sabotage}
    command = [__file__, *map(str, arguments)]
    if not with_torchrun:
        return _run_forked(processes, command, folder, environment)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    import forked  # the processes themselves cannot

    (folder / "bin").mkdir()
    environment["PYTHON_EXEC"] = forked.interpreter(folder / "bin")  # what torchrun starts
    done = forked.run([sys.executable, *launcher, *command], cwd=folder, env=environment, timeout=240)
    return done.returncode, done.stdout, done.stderr


def _run_forked(processes: int, command: list[str], folder: Path, env: dict[str, str]) -> tuple[int, str, str]:
    """As torchrun does: a store that outlives every process, and an end of all as soon as one fails."""
    import forked  # the processes themselves cannot
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    env |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        started = [
            forked.popen(
                [sys.executable, *command], cwd=folder, stdout=out.fileno(), stderr=err.fileno(),
                env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(processes)
        ]  # fmt: skip
        try:
            code = forked.wait_for_all(started, timeout=240)
        finally:
            for process in started:
                process.kill()
        for file in (out, err):
            file.seek(0)
        return code, out.read(), err.read()


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
