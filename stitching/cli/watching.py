"""The commands that look at runs of sweeps: status, logs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from stitching.cli.console import AsJson, app, err, out, print_table, table_of
from stitching.cli.sweep_arguments import SweepsOrFolders, expected_of

_SHOWN = 100  # runs of one state that are listed without --all
_SECONDS = 15.0  # between two looks of --watch: Slurm's controller has others to answer, too


@app.command(
    epilog="""
Examples: `stitching status across-scales/digits.yml`, `stitching status experiments/demo/digits --watch`,
`stitching status across-scales/resnet-50.yml --json`
"""
)
def status(
    paths: SweepsOrFolders,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help=f"Update every {_SECONDS:.0f} s until all runs are done or failed.")
    ] = False,
    every_run: Annotated[bool, typer.Option("--all", help=f"List all runs, not only {_SHOWN} of each state.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the state of every run: done, running, pending or failed, and why."""
    from stitching.launch.status import other_code, status_of_all, summary

    sweeps = [(path, *expected_of(path)) for path in paths]
    if watch and not as_json:
        _watch(sweeps)
        return
    statuses = status_of_all([(folder, expected) for _, folder, expected in sweeps])
    _print_damaged(folder for _, folder, _ in sweeps)
    if as_json:
        paths_of_runs = [path for path, _, expected in sweeps for _ in expected]
        rows = [{"sweep": str(path), **run.as_json()} for path, run in zip(paths_of_runs, statuses, strict=True)]
        print(json.dumps(rows, indent=1))
        return
    print_table("Runs", _COLUMNS, _rows(statuses, len(statuses) if every_run else _SHOWN))
    out.print(summary(statuses))
    for line in other_code(statuses):
        out.print(line, markup=False, soft_wrap=True)
    _print_forgotten(sweeps)


@app.command(epilog="Examples: `stitching logs experiments/demo/digits/RUN`, `stitching logs RUN --follow`")
def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Follow the log until the run has ended.")] = False,
) -> None:
    """Print a run's log and its Slurm output."""
    from stitching.launch.logs import followed_log, log_files

    if follow:
        for line in followed_log(run):
            print(line, flush=True)
        return
    for path in log_files(run):
        err.print(f"{path}:", markup=False, soft_wrap=True)
        print(path.read_text(errors="replace"), end="")


_COLUMNS = ["run", "state", "epoch", "test accuracy", "job", ""]


def _rows(runs: Sequence[Any], most: int) -> list[list[str]]:
    """A row for each run, and where a state has more than `most` of them, one for the others."""
    rows: list[list[str]] = []
    left: dict[str, int] = {}
    for run in runs:
        left[run.state] = left.get(run.state, most) - 1
        if left[run.state] >= 0:
            epoch = "" if run.epoch is None else str(run.epoch)
            accuracy = "" if run.accuracy is None else f"{run.accuracy:.3f}"
            rows.append([run.name, run.state, epoch, accuracy, run.job or "", run.words.partition("\n")[0]])
    for state, count in left.items():
        if count < 0:
            rows.append([f"... and {-count:,} more (--all)", state, "", "", "", ""])
    return rows


def _print_damaged(folders: Iterable[Path]) -> None:
    from stitching.launch.records import RECORDS, damaged_records

    for folder in folders:
        for path in damaged_records(folder / RECORDS):
            err.print(
                f"note: {path} is damaged: its job is not known here",
                markup=False, soft_wrap=True,
            )  # fmt: skip


def _print_forgotten(sweeps: list[tuple[Path, Path, list[Any]]]) -> None:
    from stitching.cli.planning import print_forgotten
    from stitching.runs.state import forgotten_runs

    for path, folder, expected in sweeps:
        if not path.is_dir():
            print_forgotten(forgotten_runs(folder, [run.name for run in expected]), folder)


def _watch(sweeps: list[tuple[Path, Path, list[Any]]]) -> None:
    """The table again and again in a terminal; elsewhere a line whenever something has changed."""
    from stitching.launch.status import status_of_all, summary

    shown = ""
    with Live(console=out, auto_refresh=False, transient=False) as live:
        while True:
            runs = status_of_all([(folder, expected) for _, folder, expected in sweeps])
            words = f"{time.strftime('%H:%M:%S')}  {summary(runs)}"
            moving = [run for run in runs if run.state in ("running", "pending", "unknown")]
            if out.is_terminal:
                room = max(1, out.height - 6)
                live.update(table_of(words, _COLUMNS, _rows(moving, room)[:room]), refresh=True)
            elif summary(runs) != shown:
                out.print(words)
            shown = summary(runs)
            if not moving:
                return
            time.sleep(_SECONDS)
