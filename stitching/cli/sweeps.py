"""The commands for sweeps: plan, submit, status, logs, cancel."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import AsJson, app, err, located, out, print_table
from stitching.config.yaml import load_yaml, parse_assignments
from stitching.progress import shown_progress

SweepFiles = Annotated[list[Path], typer.Argument(metavar="SWEEP.yml...", help="The YAML files of sweeps.")]


@app.command(
    epilog="""
Examples: `stitching plan across-scales/digits.yml`, `stitching plan sweeps/*.yml`, `stitching plan sweep.yml --json`
"""
)
def plan(sweeps: SweepFiles, as_json: AsJson = False) -> None:
    """Show what sweeps would run, and which gaps their stitchers decline; writes nothing."""
    plans = [_plan(sweep) for sweep in sweeps]
    if as_json:
        print(json.dumps([run.as_json() for found in plans for run in found.cells], indent=1))
        return
    for found in plans:
        _print_plan(found)


@app.command(
    epilog="""
Examples: `stitching submit across-scales/digits.yml --cluster local --pack 16`,
`stitching submit sweeps/*.yml --cluster nvgpu --array-parallelism 20`
"""
)
def submit(
    sweeps: SweepFiles,
    cluster: Annotated[str, typer.Option(help="Where to run: local (this machine), or a name in sbatch/clusters.yml.")],
    pack: Annotated[int, typer.Option(min=1, help="Runs that share one pass over the data, at most.")] = 8,
    jobs: Annotated[int, typer.Option(min=1, help="With local: processes at once, one core each.")] = 1,
    array_parallelism: Annotated[
        int | None, typer.Option(min=1, help="On a cluster: tasks of an array that run at once.")
    ] = None,
    slurm: Annotated[
        list[str] | None, typer.Option("--slurm", metavar="KEY=VALUE", help="Any key of the cluster's profile.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="On a cluster: print the sbatch scripts, and write nothing.")
    ] = False,
) -> None:
    """Run what of the sweeps is not done yet; submitting again goes on where it stopped.

    On a cluster it is put into Slurm's queue; `stitching status` shows how it goes on.
    """
    if cluster != "local":
        changes = parse_assignments(slurm or [], "--slurm", "partition=long")
        if array_parallelism:
            changes["array_parallelism"] = array_parallelism
        _submit_to_slurm(sweeps, cluster, pack, changes, dry_run)
        return
    again = shlex.join(["stitching", "submit", *map(str, sweeps), "--cluster", "local"])
    plans = [_plan(sweep) for sweep in sweeps]  # all of them, before the first run: mistakes are told at once
    went_well = [_submitted_here(found, pack, jobs, again) for found in plans]
    if not all(went_well):
        out.print(f"To try the failed ones again: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _submitted_here(found: Any, pack: int, jobs: int, again: str) -> bool:
    """Run a plan on this machine; False if a run of it failed."""
    from stitching.sweeps.submit import submit as submit_plan
    from stitching.training.trainer import Interrupted

    try:
        with shown_progress(err, "steps") as told:
            outcome = submit_plan(found, "local", pack=pack, jobs=jobs, told=told)
    except Interrupted:
        err.print(f"Stopped; every run has a checkpoint. To go on: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    done = len(outcome.started) - len(outcome.failures)
    out.print(
        f"{done} runs done, {len(outcome.done_before)} done before, {len(outcome.failures)} failed; in {found.folder}",
        soft_wrap=True,
    )
    for name, reason in outcome.failures.items():
        out.print(f"  {name}: {reason}", markup=False, soft_wrap=True)
    return not outcome.failures


def _submit_to_slurm(sweeps: list[Path], cluster: str, pack: int, changes: dict[str, Any], dry_run: bool) -> None:
    from stitching.config.clusters import load_profile
    from stitching.sweeps.submit import scripts_for_slurm, submit_to_slurm

    profiles = [load_profile(cluster, sweep, changes) for sweep in sweeps]
    plans = [_plan(sweep) for sweep in sweeps]
    for found, profile in zip(plans, profiles, strict=True):
        if dry_run:
            for script in scripts_for_slurm(found, profile, pack=pack):
                print(script)
            continue
        with shown_progress(err, "weights") as told:
            queued = submit_to_slurm(found, cluster, profile, pack=pack, told=told)
        runs = sum(len(task.runs) for task in queued.tasks)
        ids = ", ".join(dict.fromkeys(task.id.partition("_")[0] for task in queued.tasks))
        out.print(
            f"{runs} runs submitted in {len(queued.tasks)} tasks" + (f" (Slurm's {ids})" if ids else ""),
            f"{len(queued.done_before)} done before, {len(queued.in_queue_before)} in the queue before",
            sep="; ", soft_wrap=True,
        )  # fmt: skip
    if not dry_run:
        places = shlex.join(map(str, sweeps))
        out.print(f"To see how they go on: stitching status {places}", markup=False, soft_wrap=True)


@app.command(epilog="Examples: `stitching status across-scales/digits.yml`, `stitching status experiments/demo/digits`")
def status(
    places: Annotated[list[Path], typer.Argument(metavar="SWEEP.yml|FOLDER...", help="Sweeps, or folders of runs.")],
    as_json: AsJson = False,
) -> None:
    """Show how the runs of sweeps stand: done, running, pending or failed, and why."""
    from stitching.sweeps.status import summary, sweep_status

    runs = [(place, run) for place in places for run in sweep_status(*_runs_of(place))]
    if as_json:
        print(json.dumps([{"sweep": str(place), **run.as_json()} for place, run in runs], indent=1))
        return
    rows = [
        [
            run.name, run.state, "" if run.epoch is None else str(run.epoch),
            "" if run.accuracy is None else f"{run.accuracy:.3f}", run.job or "", run.words,
        ]
        for _, run in runs
    ]  # fmt: skip
    print_table("Runs", ["run", "state", "epoch", "test accuracy", "job", ""], rows)
    out.print(summary([run for _, run in runs]))


@app.command(epilog="Examples: `stitching logs experiments/demo/digits/RUN`, `stitching logs RUN --follow`")
def logs(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is done or failed.")] = False,
) -> None:
    """Print what a run has said: its log, and the output of its job in Slurm."""
    from stitching.sweeps.logs import followed_log, log_files

    if follow:
        for line in followed_log(run):
            print(line, flush=True)
        return
    for path in log_files(run):
        err.print(f"{path}:", markup=False, soft_wrap=True)
        print(path.read_text(errors="replace"), end="")


@app.command(epilog="Examples: `stitching cancel across-scales/digits.yml`")
def cancel(
    place: Annotated[Path, typer.Argument(metavar="SWEEP.yml|FOLDER", help="A sweep, or the folder of its runs.")],
) -> None:
    """Take what of a sweep waits or runs out of Slurm; `submit` goes on with it later."""
    from stitching.sweeps.slurm import cancel as cancel_jobs
    from stitching.sweeps.status import in_queue

    folder, _ = _runs_of(place)
    held = in_queue(folder)
    ids = list(dict.fromkeys(task.id for task in held.values()))
    cancel_jobs(ids)
    out.print(f"{len(held)} runs in {len(ids)} tasks cancelled")


def _runs_of(place: Path) -> tuple[Path, list[str]]:
    """The folder of a sweep, and the names of its runs: those of the plan, or of a folder those that are in it."""
    from stitching.sweeps.status import run_names

    if place.is_dir():
        return place, run_names(place)
    found = _plan(place)
    return found.folder, [run.name for run in found.runs]


def _plan(path: Path) -> Any:
    from stitching.config.sweep import read_sweep
    from stitching.sweeps.plan import make_plan

    document = load_yaml(path)
    with located(document), shown_progress(err, "cells") as told:
        return make_plan(read_sweep(document), document.path, told)


def _print_plan(found: Any) -> None:
    rows = []
    for run in found.cells:
        cell = run.cell
        if run.declined:
            verdict = f"declined: {run.declined}"
        else:
            verdict = f"same network as {run.same_as}" if run.same_as else "run"
        values = ", ".join(f"{key.split('.')[-1]}={value}" for key, value in run.settings.items())
        rows.append(
            [
                cell.source.title, cell.dest.title, f"{cell.gap[0]}-{cell.gap[1]}", cell.stitcher, str(run.seed),
                values,
                f"{run.trainable:,}" if run.job else "", f"{run.cost.macs / 1e6:,.1f}" if run.cost else "", verdict,
            ]
        )  # fmt: skip
    columns = ["source", "destination", "gap", "stitcher", "seed", "settings", "trainable", "MMACs", ""]
    if not any(row[5] for row in rows):
        columns.pop(5)
        rows = [row[:5] + row[6:] for row in rows]
    print_table(f"Plan of {found.name}", columns, rows)
    for note in found.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    same = len(found.cells) - len(found.runs) - len(found.declined)
    out.print(
        f"{len(found.runs)} runs, {same} more cells of the same networks, {len(found.declined)} declined",
        f"in {found.folder}",
        soft_wrap=True,
    )
