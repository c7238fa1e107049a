"""The command line: parses, calls, prints."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stitching.config.errors import UserError
from stitching.config.yaml import Document, load_yaml, parse_assignments
from stitching.progress import shown_progress

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Cut trained networks, stitch them with adapters, and measure what comes back.",
    epilog="Start with `stitching inspect timm/resnet18`, or `stitching train -c config.yml` in a job's folder.",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

SweepFiles = Annotated[list[Path], typer.Argument(metavar="SWEEP.yml...", help="The YAML files of sweeps.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main() -> None:
    """Run the command line; a user's mistake ends it with one message and exit code 2, Ctrl-C with 130."""
    try:
        app()
    except UserError as error:
        _say_error(error)
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)
    except BrokenPipeError:  # `stitching ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _say_error(error: UserError) -> None:
    err.print(f"error: {error}", markup=False, soft_wrap=True)


def _again() -> str:
    """This command line, made to go on from the checkpoint."""
    given = [word for word in sys.argv[1:] if word not in ("--overwrite", "--resume")]
    return shlex.join(["stitching", *given, "--resume"])


@contextmanager
def _located(document: Document) -> Iterator[None]:
    """Errors that leave the body say in which line of the document their key stands."""
    try:
        yield
    except UserError as error:
        raise (document.locate(error) if error.path else error) from None


@app.command(
    epilog="""
Examples: `stitching train -c config.yml`, `stitching train -c config.yml --seed 7 --lr 1e-3`,
`stitching train -c config.yml --set train_config.max_steps=100`, `stitching train -c config.yml --resume`
"""
)
def train(
    config: Annotated[Path, typer.Option("--config", "-c", help="The job's YAML file.")],
    seed: Annotated[int | None, typer.Option(help="Instead of train_config.seed.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of train_config.epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of train_config.batch_size.")] = None,
    lr: Annotated[float | None, typer.Option(help="Instead of the optimizer's learning rate.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, ...; the default is a GPU if there is one.")
    ] = None,
    data_path: Annotated[Path | None, typer.Option(help="The folder that data sets are in.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load data.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other key of the config.")
    ] = None,
    smoke_test: Annotated[
        bool, typer.Option("--smoke-test", help="Try a few batches of everything; keeps nothing.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, if there is one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start again over an earlier result.")] = False,
) -> None:
    """Train one job; its result, log and checkpoint appear beside the config.

    Values given here win over the file. Ctrl-C leaves a checkpoint to go on from.
    """
    from stitching.config.job import override
    from stitching.jobs import run_job, smoke_test_job

    document = load_yaml(config)
    values: dict[str, Any] = {
        "train_config.seed": seed, "train_config.epochs": epochs, "train_config.batch_size": batch_size,
        "train_config.lr": lr, "device": device,
        "data_path": str(data_path.absolute()) if data_path else None,
        "workers": workers,
    }  # fmt: skip
    with _located(document):
        given = {key: value for key, value in values.items() if value is not None} | parse_assignments(
            assignments or [], "--set", "train_config.epochs=3"
        )
        for key, value in given.items():
            override(document, key, value, f"command line ({key})")
        with shown_progress(err, "steps") as told:
            if smoke_test:
                report = smoke_test_job(document, told)
            else:
                report = run_job(document, resume=resume, overwrite=overwrite, told=told, again=_again())
    out.print(report.words, markup=False, soft_wrap=True)
    raise typer.Exit(report.exit_code)


@app.command(
    epilog="""
Examples: `stitching inspect timm/resnet50`, `stitching inspect torchvision/swin_t --stages`,
`stitching inspect timm/vit_small_patch16_224 --stages --yaml`, `stitching inspect timm/resnet18 --arg in_chans=1`
"""
)
def inspect(
    model: Annotated[str, typer.Argument(metavar="BACKEND/NAME", help="timm/..., torchvision/... or local/convnet.")],
    stages: Annotated[
        bool, typer.Option("--stages", help="The stages that a sweep would use, not the cut points.")
    ] = False,
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="The stages as `stages:`, ready to paste into a sweep.")
    ] = False,
    as_json: AsJson = False,
    image_size: Annotated[int | None, typer.Option(help="Pixels on a side; the default is the model's own.")] = None,
    arguments: Annotated[
        list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help="An argument of the model's.")
    ] = None,
) -> None:
    """List where a model can be cut: name, format, size, and what lies before and after.

    Costs are for one image; MACs are multiply-adds of convolutions, linear layers and attention.
    """
    from stitching.nets import inspection

    found = inspection.inspect_model(model, arguments or [], image_size=image_size, stages=stages or as_yaml)
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    elif as_yaml:
        print(found.as_yaml(), end="")
    else:
        _print_table(found.title, found.columns, found.rows)


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
        queued = submit_to_slurm(found, cluster, profile, pack=pack)
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
    _print_table("Runs", ["run", "state", "epoch", "test accuracy", "job", ""], rows)
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


@app.command(epilog="Examples: `stitching results experiments/demo/digits --figure digits.png`")
def results(
    folder: Annotated[Path, typer.Argument(help="A folder of runs.")],
    base: Annotated[
        list[Path] | None, typer.Option("--base", help="The folder of a base network's run; may be repeated.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Write a figure of accuracy by gap here (.png, .pdf or .svg).")
    ] = None,
) -> None:
    """Print the accuracies of finished runs by pair, gap and stitcher; optionally draw them."""
    from stitching.analysis.figures import plot_accuracy_by_gap
    from stitching.analysis.tables import accuracy_table, base_accuracies, load_runs

    runs = load_runs(folder)
    bases = base_accuracies(base or [])
    table = accuracy_table(runs)
    rows = []
    for place, values in zip(table.index, table.to_numpy(), strict=True):
        source, dest, *others = place
        alone = [f"{bases[title]:.3f}" if title in bases else "" for title in (source, dest)]
        numbers = ("" if isnan(value) else f"{value:.3f}" for value in values)
        rows.append([source, alone[0], dest, alone[1], *map(str, others), *numbers])
    columns = ["source", "alone", "destination", "alone", *table.index.names[2:], *table.columns]
    seeds = runs["seed"].nunique()
    means = f", means of {seeds} seeds" if seeds > 1 else ""
    _print_table(f"Test accuracy of the stitched networks in {folder}{means}", columns, rows)
    if figure:
        plot_accuracy_by_gap(runs, bases, figure)
        out.print(f"Figure: {figure}", soft_wrap=True)


@app.command(
    "collect",
    epilog="Examples: `stitching collect experiments/demo -o all.parquet`, `stitching collect FOLDER -o x.csv --steps`",
)
def collect_runs(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, at any depth.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The table to write: .parquet or .csv.")],
    steps: Annotated[bool, typer.Option("--steps", help="A row for every step, not for every epoch.")] = False,
) -> None:
    """Write one tidy table of all that runs have logged, finished or not: a row for each run and epoch."""
    from stitching.analysis.collect import collect, save_table

    table, missing = collect(folder, steps=steps)
    save_table(table, output)
    for place, reason in missing.items():
        err.print(f"left out {place}: {reason}", markup=False, soft_wrap=True)
    out.print(f"{len(table)} rows of {table['folder'].nunique()} runs in {output}", markup=False, soft_wrap=True)


def _plan(path: Path) -> Any:
    from stitching.config.sweep import read_sweep
    from stitching.sweeps.plan import make_plan

    document = load_yaml(path)
    with _located(document), shown_progress(err, "cells") as told:
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
    _print_table(f"Plan of {found.name}", columns, rows)
    for note in found.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    same = len(found.cells) - len(found.runs) - len(found.declined)
    out.print(
        f"{len(found.runs)} runs, {same} more cells of the same networks, {len(found.declined)} declined",
        f"in {found.folder}",
        soft_wrap=True,
    )


def _print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    numeric = [
        all(row[i].replace(",", "").replace(".", "").strip("-").isdigit() or not row[i] for row in rows)
        for i in range(len(columns))
    ]
    # Out of a terminal a table is as wide as it needs to be: nothing is cut off in a log or a pipe.
    console = out if out.is_terminal else Console(highlight=False, width=10_000, file=sys.stdout)
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name, right in zip(columns, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(value.replace("[", r"\[") for value in row))
    console.print(table)
