"""The commands that start and stop runs of sweeps: submit, retry, cancel."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stitching.cli.console import LIST_OPTIONS, ListCommand, app, err, out
from stitching.cli.planning import print_outdated
from stitching.cli.sweep_arguments import (
    PACK,
    DataPath,
    Seeds,
    SweepFiles,
    SweepsOrFolders,
    plan_of,
    run_folder_of,
    sweep_files,
)
from stitching.config.errors import UserError, unknown_name
from stitching.config.yaml import parse_assignments
from stitching.progress import shown_progress

if TYPE_CHECKING:
    from stitching.launch.orders import Order
    from stitching.launch.retry import Retry
    from stitching.launch.submit import Submission
    from stitching.sweeps.plan import Plan

Pack = Annotated[
    int, typer.Option(min=1, help="Train at most this many runs in one task; they share one pass over the data.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="On this machine (local): processes at once; 1 by default.")]
ArrayParallelism = Annotated[int | None, typer.Option(min=1, help="On Slurm: tasks of an array that run at once.")]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="Change any key of the cluster's profile: minutes=600."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the batch scripts, and write nothing.")]

__all__ = [
    "ArrayParallelism", "DryRun", "Jobs", "Pack", "SlurmOptions", "command_again", "planner", "print_scripts",
    "profile_changes", "submit_orders",
]  # fmt: skip

STARTED_AGAIN = ("missing", "failed", "stopped", "stale")
LIST_OPTIONS["--only"] = STARTED_AGAIN.__contains__


def _state_to_start(state: str) -> str:
    if state == "done":
        raise UserError("done runs are not run again", allowed=", ".join(STARTED_AGAIN), path=("--only",))
    if state not in STARTED_AGAIN:
        raise unknown_name("state of runs to start", state, STARTED_AGAIN, path=("--only",))
    return state


@app.command(
    cls=ListCommand,
    epilog="""
Examples: `stitching submit across-scales/digits.yml --cluster local --pack 16`,
`stitching submit sweeps/*.yml --cluster nvgpu --array-parallelism 20 --seeds 1 2 3`,
`stitching submit sweep.yml --cluster nvgpu --only missing --slurm minutes=600`
""",
)
def submit(
    sweeps: SweepFiles,
    cluster: Annotated[
        str, typer.Option(help="Where to run: local (this machine), or a profile in sbatch/clusters.yml.")
    ],
    pack: Pack = PACK,
    jobs: Jobs = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATE...", parser=_state_to_start, help=f"Only runs in these states: {', '.join(STARTED_AGAIN)}."
        ),
    ] = None,
    seeds: Seeds = None,
    data_path: DataPath = None,
    array_parallelism: ArrayParallelism = None,
    slurm: SlurmOptions = None,
    dry_run: DryRun = False,
) -> None:
    """Run all runs that are not done; submitted again, sweeps resume where they stopped.

    On a cluster the runs are queued, and `stitching status` shows their progress. Everything is checked before anything
    is written: networks, data sets, checkpoints, and whether the cluster would take the jobs.
    """
    from stitching.launch.orders import load_orders

    orders = load_orders(
        sweep_files(sweeps), cluster, profile_changes(jobs, array_parallelism, slurm), planner(seeds, data_path)
    )
    if only:
        orders = [order.only(only) for order in orders]
    if dry_run:
        print_scripts(orders, pack)
    elif not submit_orders(orders, pack, command_again("submit", sweeps, cluster, seeds, data_path)):
        raise typer.Exit(1)


@app.command(
    cls=ListCommand,
    epilog="""
Examples: `stitching retry across-scales/resnet-50.yml`, `stitching retry sweep.yml --timeout --slurm minutes=2880`,
`stitching retry sweep.yml --out-of-memory --slurm memory_gb=64`
""",
)
def retry(
    sweeps: SweepFiles,
    failed: Annotated[bool, typer.Option("--failed", help="Runs that ended with an error or were killed.")] = False,
    timeout: Annotated[bool, typer.Option("--timeout", help="Runs that reached their time limit.")] = False,
    out_of_memory: Annotated[bool, typer.Option("--out-of-memory", help="Runs that needed too much memory.")] = False,
    node_failure: Annotated[
        bool, typer.Option("--node-failure", help="Runs whose node failed, or that were preempted for good.")
    ] = False,
    diverged: Annotated[bool, typer.Option("--diverged", help="Runs whose loss became infinite or NaN.")] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Runs that were cancelled.")] = False,
    cluster: Annotated[
        str | None, typer.Option(help="Where to run; by default where the runs were submitted to.")
    ] = None,
    pack: Pack = PACK,
    jobs: Jobs = None,
    seeds: Seeds = None,
    data_path: DataPath = None,
    array_parallelism: ArrayParallelism = None,
    slurm: SlurmOptions = None,
    dry_run: DryRun = False,
) -> None:
    """Submit failed runs again; without an option, all but those that were cancelled or diverged.

    Runs resume from their checkpoints, and nodes that failed are excluded. A run that diverged would diverge again at
    the same step: change its config.
    """
    from stitching.launch.retry import load_retries

    asked = {
        "error": failed, "killed": failed, "time limit": timeout, "out of memory": out_of_memory,
        "node failure": node_failure, "preempted": node_failure, "cancelled": cancelled,
        "diverged": diverged,
    }  # fmt: skip
    causes = {cause for cause, is_asked in asked.items() if is_asked} or set(asked) - {"cancelled", "diverged"}
    plan = planner(seeds, data_path)
    plans = [(path, plan(path)) for path in sweep_files(sweeps)]
    retries = load_retries(plans, causes, cluster, profile_changes(jobs, array_parallelism, slurm))
    for each in retries:
        _print_retry(each)
    went_well = not any(each.unknown for each in retries)
    for order in (each.order for each in retries if each.order):
        if dry_run:
            print_scripts([order], pack)
        else:
            again = command_again("retry", sweeps, order.cluster.name, seeds, data_path)
            went_well = submit_orders([order], pack, again) and went_well
    if not went_well:
        raise typer.Exit(1)


@app.command(
    epilog="""
Examples: `stitching cancel across-scales/digits.yml`, `stitching cancel experiments/demo/digits --only '*-seed-2'`
"""
)
def cancel(
    paths: SweepsOrFolders,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this run, or 'pattern*' of names; may be repeated.")
    ] = None,
) -> None:
    """Cancel queued and running jobs. `submit` resumes them later.

    A job is cancelled as a whole: runs that were packed together with a named one are cancelled, too.
    """
    from stitching.launch.cancel import cancel as cancel_runs

    for path in paths:
        folder = run_folder_of(path)
        cancelled = cancel_runs(folder, only or [])
        out.print(f"{len(cancelled.runs)} runs in {cancelled.tasks} tasks cancelled")
        for name in cancelled.along:
            out.print(f"  {name}: cancelled too, in the same task", markup=False, soft_wrap=True)
        if cancelled.running_here:
            out.print(
                f"{len(cancelled.running_here)} runs are in no queue and go on: press Ctrl-C where they were started",
                markup=False, soft_wrap=True,
            )  # fmt: skip


def planner(seeds: list[int] | None, data_path: Path | None) -> Callable[[Path], Plan]:
    return lambda path: plan_of(path, seeds=seeds, data_path=data_path, data=True)


def print_scripts(orders: Sequence[Order], pack: int) -> None:
    from stitching.launch.orders import scripts

    for script in (script for order in orders for script in scripts(order, pack=pack)):
        print(script)


def submit_orders(orders: Sequence[Order], pack: int, again: str) -> bool:
    """Submit orders and print what became of them; False if a run failed or was refused."""
    from stitching.launch.submit import submit_all
    from stitching.runs.stopping import Interrupted

    submissions = []
    try:
        for submission in submit_all(orders, pack=pack, show_progress=lambda unit: shown_progress(err, unit)):
            submissions.append(submission)
            _print_submission(submission)
    except Interrupted:
        err.print(f"Stopped; every run has a checkpoint. To resume: {again}", markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    in_queue = [each.order.plan.folder for each in submissions if each.queued or each.queued_before]
    if in_queue:
        folders = shlex.join(map(str, in_queue))
        out.print(f"To see their progress: stitching status {folders}", markup=False, soft_wrap=True)
    if any(submission.failures for submission in submissions):
        out.print(f"To retry the failed runs: {again}", markup=False, soft_wrap=True)
    return not any(submission.failures or submission.refused for submission in submissions)


def _print_submission(submission: Submission) -> None:
    plan = submission.order.plan
    for scheduler, reason in submission.no_answer.items():
        err.print(
            f"note: {reason}; runs that {scheduler} still holds may be in its queue and here",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    out.print(_summary(submission), soft_wrap=True)
    for name, reason in (submission.failures | submission.refused).items():
        out.print(f"  {name}: {reason}", markup=False, soft_wrap=True)
    for name, words in _failed_checks(submission):
        out.print(f"  {name}: {words}", style="bold red", markup=False, soft_wrap=True)
    print_outdated([run.name for run in submission.outdated], plan.folder)


def _failed_checks(submission: Submission) -> Iterator[tuple[str, str]]:
    from stitching.launch.status import sweep_status

    plan = submission.order.plan
    names = {run.name for run in submission.ended}
    checks = [plan.expected(run) for run in plan.runs if run.name in names and run.is_check]
    for status in sweep_status(plan.folder, checks):
        if status.state == "done" and status.words:
            yield status.name, status.words


def _summary(submission: Submission) -> str:
    """`5 runs done, 0 done before, 0 failed; in FOLDER`, or `5 runs submitted in 3 tasks (jobs 12, 13); ...`."""
    waiting = len(submission.queued_before)
    refused = f", {len(submission.refused)} not started" if submission.refused else ""
    if not submission.order.cluster.scheduler.has_queue:
        done = len(submission.ended) - len(submission.failures)
        queued = f", {waiting} left to the queue that they are in" if waiting else ""
        counts = f"{done} runs done, {len(submission.done_before)} done before, {len(submission.failures)} failed"
        return f"{counts}{refused}{queued}; in {submission.order.plan.folder}"
    runs = sum(len(task.runs) for task in submission.queued)
    ids = ", ".join(dict.fromkeys(task.id.partition("_")[0] for task in submission.queued))
    submitted = f"{runs} runs submitted in {len(submission.queued)} tasks{ids and f' (jobs {ids})'}"
    return f"{submitted}; {len(submission.done_before)} done before, {waiting} in the queue before{refused}"


def _print_retry(retry: Retry) -> None:
    """What is left out of a retry, and why."""
    if retry.unknown:
        reason = retry.unknown[0].words.partition("; ")[2]
        err.print(
            f"{retry.file}: the state of {len(retry.unknown)} runs is unknown, because their scheduler "
            f"cannot be asked: {reason}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    if retry.diverged:
        out.print(f"{retry.diverged} runs diverged, and would again: they are left out; --diverged retries them")
    if not retry.order and not retry.unknown:
        out.print(f"{retry.file}: no failed runs to retry", markup=False, soft_wrap=True)
    if retry.failed_nodes:
        out.print(
            f"Excluded, because they failed before: {', '.join(retry.failed_nodes)}", markup=False, soft_wrap=True
        )


def profile_changes(jobs: int | None, array_parallelism: int | None, slurm: list[str] | None) -> dict[str, Any]:
    """What the command line says of the cluster's profile."""
    options = {"jobs": jobs, "array_parallelism": array_parallelism}
    changes = parse_assignments(slurm or [], "--slurm", "partition=long")
    return changes | {key: value for key, value in options.items() if value is not None}


def command_again(
    command: str, sweeps: list[Path], cluster: str, seeds: list[int] | None, data_path: Path | None
) -> str:
    more = ["--seeds", *map(str, seeds)] if seeds else []
    more += ["--data-path", str(data_path)] if data_path else []
    return shlex.join(["stitching", command, *map(str, sweeps), "--cluster", cluster, *more])
