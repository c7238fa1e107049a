"""The command `plan`: what sweeps would run, how their runs stand, and what is left to do."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stitching.cli.console import AsJson, ListCommand, app, err, out, print_table
from stitching.cli.sweep_arguments import PACK, DataPath, Seeds, SweepFiles, plan_of, sweep_files
from stitching.progress import duration, shown_progress

if TYPE_CHECKING:
    from stitching.launch.status import RunStatus
    from stitching.sweeps.plan import Plan, PlannedRun

MOST_ROWS = 100  # of one sweep, without --all


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
    show_all: Annotated[bool, typer.Option("--all", help="Every row of every sweep, however many there are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what sweeps would run, what is done, and which gaps are declined. Writes nothing.

    Of several sweeps it shows a line each; --all shows their rows.
    """
    plans = [plan_of(path, seeds=seeds, data_path=data_path) for path in sweep_files(sweeps)]
    if explain:
        _print_explained(plans, explain)
        return
    if as_json:
        print(json.dumps([row for each in plans for row in _as_json(each)], indent=1))
        return
    if len(plans) > 1 and not (show_all or calibrate):
        _print_summary(plans)
        return
    for each in plans:
        _print_plan(each, calibrate=calibrate, show_all=show_all)
    if len(plans) > 1:
        out.print(_total(plans))


def _print_explained(plans: list[Plan], name: str) -> None:
    from stitching.launch.explain import explain

    having = [each for each in plans if any(run.name == name for run in each.entries)]
    for line in explain((having or plans)[0], name):
        out.print(line, markup=False, soft_wrap=True)


def _as_json(plan: Plan) -> list[dict[str, Any]]:
    states = {status.name: status.state for status in _statuses(plan)}
    return [{**run.as_json(), "state": states.get(run.name)} for run in plan.entries]


def _statuses(plan: Plan) -> list[RunStatus]:
    from stitching.launch.status import sweep_status

    return sweep_status(plan.folder, [plan.expected(run) for run in plan.runs])


def _total(plans: list[Plan]) -> str:
    return f"In all {sum(len(each.runs) for each in plans)} runs of {len(plans)} sweeps"


def _print_summary(plans: list[Plan]) -> None:
    """A line for each sweep."""
    from stitching.launch.estimate import estimated, paces_of_finished
    from stitching.launch.status import summary

    rows = []
    for each in plans:
        statuses = _statuses(each)
        counts = Counter(status.state for status in statuses)
        done = {status.name for status in statuses if status.state == "done"}
        estimate = estimated(each, paces_of_finished(each, done), done)
        hours = "" if estimate.unknown else f"{estimate.hours:,.1f}"
        others = summary([status for status in statuses if status.state not in ("done", "stale", "missing")])
        rows.append(
            [
                each.name, str(len(each.runs)), str(counts["done"]), str(counts["stale"]), str(len(each.declined)),
                hours, others,
            ]
        )  # fmt: skip
    print_table("Plans", ["sweep", "runs", "done", "stale", "declined", "hours left", ""], rows)
    for note in dict.fromkeys(f"{each.name}: {note}" for each in plans for note in each.notes):
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(f"{_total(plans)}. Add --all for the rows of each, or plan one of them.")


def _print_plan(plan: Plan, *, calibrate: bool, show_all: bool) -> None:
    from stitching.launch.packing import packed
    from stitching.launch.status import summary
    from stitching.runs.state import forgotten_runs

    statuses = _statuses(plan)
    columns, rows = _table(plan, {status.name: status.state for status in statuses})
    shown = rows if show_all else rows[:MOST_ROWS]
    print_table(f"Plan of {plan.name}", columns, shown)
    if len(shown) < len(rows):
        out.print(f"... and {len(rows) - len(shown)} more rows; --all shows them")
    for note in plan.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    same = len(plan.entries) - len(plan.runs) - len(plan.declined)
    out.print(
        f"{len(plan.runs)} runs ({summary(statuses)}) in {len(packed(plan.runs, PACK))} tasks of at most {PACK}, "
        f"{same} duplicates of these, {len(plan.declined)} declined; in {plan.folder}",
        soft_wrap=True,
    )
    print_forgotten(forgotten_runs(plan.folder, [run.name for run in plan.runs]), plan.folder)
    print_outdated([status.name for status in statuses if status.outdated], plan.folder)
    _print_estimate(plan, statuses, calibrate)


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


def _table(plan: Plan, states: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """The columns, and a row for each network; runs that differ in what has no column are counted."""
    groups: dict[Any, list[PlannedRun]] = {}
    for run in plan.entries:
        key = (*run.row.items(), run.cost, run.declined, run.same_as is not None)
        groups.setdefault(key, []).append(run)
    names = list(dict.fromkeys(name for run in plan.entries for name in run.row))
    rows = []
    for first, *others in groups.values():
        runs, cost = [first, *others], first.cost
        if first.declined:
            verdict = f"declined: {first.declined}"
        elif first.same_as:
            verdict = f"same network as {first.same_as}" + (" and so on" if others else "")
        else:
            counts = Counter("new" if states[run.name] == "missing" else states[run.name] for run in runs)
            verdict = ", ".join(state if len(runs) == 1 else f"{n} {state}" for state, n in counts.items())
        costs = [f"{first.trainable:,}", f"{cost.macs / 1e6:,.1f}"] if cost else ["", ""]
        rows.append([*(first.row.get(name, "") for name in names), str(len(runs)), *costs, verdict])
    return [*names, "runs", "trainable", "MMACs", ""], rows


def _print_estimate(plan: Plan, statuses: list[RunStatus], calibrate: bool) -> None:
    from stitching.launch.estimate import calibrated, estimated, paces_of_finished

    done = {status.name for status in statuses if status.state == "done"}
    if all(run.name in done or run.only_tests for run in plan.runs):
        return
    if calibrate:
        with shown_progress(err, "pairs") as on_progress:
            paces = calibrated(plan, on_progress)
        source = "from a few steps of one run of each pair, alone"
    else:
        paces = paces_of_finished(plan, done)
        source = "from the median of the finished runs of the same pair"
    estimate = estimated(plan, paces, done)
    if estimate.unknown == estimate.runs:
        out.print("No time estimate yet. Add --calibrate to time a few steps of each pair.")
        return
    unknown = f", without {estimate.unknown} runs of pairs of which none is done" if estimate.unknown else ""
    on = ", ".join(estimate.devices)
    hours = f"{estimate.hours:,.1f} h" if estimate.hours > 1 else duration(estimate.hours * 3600)
    out.print(f"What is left takes about {hours} of one process on {on}, {source}{unknown}", soft_wrap=True)
