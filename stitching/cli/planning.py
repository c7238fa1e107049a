"""The command `plan`: what sweeps would run, how their runs stand, and what is left to do."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import AsJson, ListCommand, app, err, out, print_table
from stitching.cli.places import PACK, DataPath, Seeds, SweepFiles, plan_of, sweep_files
from stitching.progress import duration, shown_progress


@app.command(
    cls=ListCommand,
    epilog="""
Examples: `stitching plan across-scales/digits.yml`, `stitching plan across-scales`,
`stitching plan sweep.yml --explain RUN`, `stitching plan sweep.yml --calibrate`
""",
)
def plan(
    sweeps: SweepFiles,
    seeds: Seeds = None,
    data_path: DataPath = None,
    explain: Annotated[
        str | None, typer.Option(metavar="RUN", help="Explain why this run is new, stale, pending, failed or done.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few steps of each pair on this machine to estimate the hours.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what sweeps would run, what is done and what stitchers decline. Writes nothing."""
    plans = [plan_of(path, seeds=seeds, data_path=data_path) for path in sweep_files(sweeps)]
    if explain:
        _print_explained(plans, explain)
        return
    if as_json:
        rows = [row for found in plans for row in _as_json(found)]
        print(json.dumps(rows, indent=1))
        return
    for found in plans:
        _print_plan(found, calibrate)
    if len(plans) > 1:
        out.print(f"In all {sum(len(found.runs) for found in plans)} runs of {len(plans)} sweeps")


def _print_explained(plans: list[Any], name: str) -> None:
    from stitching.launch.explain import explain

    having = [found for found in plans if any(run.name == name for run in found.entries)]
    for line in explain((having or plans)[0], name):
        out.print(line, markup=False, soft_wrap=True)


def _as_json(found: Any) -> list[dict[str, Any]]:
    states = {status.name: status for status in _statuses(found)}
    rows = []
    for run in found.entries:
        status = states.get(run.name)
        rows.append({**run.as_json(), "state": status.state if status else None})
    return rows


def _statuses(found: Any) -> list[Any]:
    from stitching.launch.status import sweep_status

    return sweep_status(found.folder, [found.expected(run) for run in found.runs])


def _print_plan(found: Any, calibrate: bool) -> None:
    from stitching.launch.packing import packed
    from stitching.launch.status import summary
    from stitching.runs.state import forgotten_runs

    statuses = _statuses(found)
    rows = _table(found, {status.name: status.state for status in statuses})
    columns = ["source", "destination", "gap", "stitcher", "runs", "trainable", "MMACs", ""]
    print_table(f"Plan of {found.name}", columns, rows)
    for note in found.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    same = len(found.entries) - len(found.runs) - len(found.declined)
    out.print(
        f"{len(found.runs)} runs ({summary(statuses)}) in {len(packed(found.runs, PACK))} tasks of at most {PACK}, "
        f"{same} duplicates of these, {len(found.declined)} gaps declined; in {found.folder}",
        soft_wrap=True,
    )
    print_forgotten(forgotten_runs(found.folder, [run.name for run in found.runs]), found.folder)
    print_outdated([status.name for status in statuses if status.outdated], found.folder)
    _print_estimate(found, statuses, calibrate)


def print_forgotten(names: list[str], folder: Path) -> None:
    if names:
        out.print(
            f"note: {len(names)} runs in {folder} are not in the sweep any more, and stay as they are: {_some(names)}",
            markup=False, soft_wrap=True,
        )  # fmt: skip


def print_outdated(names: list[str], folder: Path) -> None:
    """Say which runs wait or train with a config that is not the sweep's any more, and what to do about it."""
    if names:
        out.print(
            f"note: the sweep was edited after {len(names)} runs were queued. They still have the old config: "
            f"{_some(names)}\n  To replace them: `stitching cancel {shlex.quote(str(folder))}`, then submit again.",
            markup=False, soft_wrap=True,
        )  # fmt: skip


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _table(found: Any, states: dict[str, str]) -> list[list[str]]:
    """A row for each network; runs that differ in their seed or settings alone are counted."""
    groups: dict[Any, list[Any]] = {}
    for run in found.entries:
        cell = run.stitch
        key = (*_words(cell), run.cost, run.trainable, run.declined)
        groups.setdefault((*key, run.same_as is not None), []).append(run)
    rows = []
    for (source, dest, gap, stitcher, cost, trainable, declined, _), runs in groups.items():
        if declined:
            verdict = f"declined: {declined}"
        elif runs[0].same_as:
            verdict = f"same network as {runs[0].same_as}" + (" and so on" if len(runs) > 1 else "")
        else:
            counts = Counter("new" if states[run.name] == "missing" else states[run.name] for run in runs)
            verdict = ", ".join(state if len(runs) == 1 else f"{n} {state}" for state, n in counts.items())
        rows.append(
            [
                source, dest, gap, stitcher, str(len(runs)), f"{trainable:,}" if cost else "",
                f"{cost.macs / 1e6:,.1f}" if cost else "", verdict,
            ]
        )  # fmt: skip
    return rows


def _words(cell: Any) -> tuple[str, str, str, str]:
    """What stands in the table for a cell: source, destination, gap and stitcher."""
    source, dest, (first, last) = cell.source.title, cell.dest.title, cell.gap
    if cell.control == "base":
        return "", dest, "", "alone (only tested)"
    if cell.control == "self":
        return source, dest, f"at {first}", "identity (self, only tested)"
    return source, dest, f"{first}-{last}", cell.stitcher + (f" ({cell.control})" if cell.control else "")


def _print_estimate(found: Any, statuses: list[Any], calibrate: bool) -> None:
    from stitching.launch.estimate import calibrated, estimated, paces_of_finished

    done = {status.name for status in statuses if status.state == "done"}
    if len(done) == len(found.runs):
        return
    if calibrate:
        with shown_progress(err, "pairs") as on_progress:
            paces = calibrated(found, on_progress)
        source = "from a few steps of one run of each pair, alone"
    else:
        paces = paces_of_finished(found, done)
        source = "from the median of the finished runs of the same pair"
    estimate = estimated(found, paces, done)
    if estimate.unknown == estimate.runs:
        out.print("No time estimate yet. Add --calibrate to time a few steps of each pair.")
        return
    unknown = f", without {estimate.unknown} runs of pairs of which none is done" if estimate.unknown else ""
    on = ", ".join(estimate.devices)
    hours = f"{estimate.hours:,.1f} h" if estimate.hours > 1 else duration(estimate.hours * 3600)
    out.print(f"What is left takes about {hours} of one process on {on}, {source}{unknown}", soft_wrap=True)
