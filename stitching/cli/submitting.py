"""The commands that start and stop runs of sweeps: submit, retry, cancel."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from stitching.cli.console import LIST_OPTIONS, ListCommand, app, err, out
from stitching.cli.places import PACK, DataPath, Places, Seeds, SweepFiles, expected_of, plan_of, sweep_files
from stitching.cli.planning import print_outdated
from stitching.config.clusters import Profile, load_profile
from stitching.config.errors import ErrorCollector, UserError, unknown_name
from stitching.config.yaml import parse_assignments
from stitching.progress import shown_progress

Pack = Annotated[
    int, typer.Option(min=1, help="Train at most this many runs in one task; they share one pass over the data.")
]
Jobs = Annotated[int, typer.Option(min=1, help="With --cluster local: processes at a time, one core each.")]
ArrayParallelism = Annotated[
    int | None, typer.Option(min=1, help="On a cluster: run at most this many tasks of an array at a time.")
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="Override a key of the cluster's profile; may be repeated."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="On a cluster: print the sbatch scripts and submit nothing.")]

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
    cluster: Annotated[str, typer.Option(help="Where to run: local (this machine), or a name in sbatch/clusters.yml.")],
    pack: Pack = PACK,
    jobs: Jobs = 1,
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
    """Run everything in the sweeps that is not done yet. Submit again to resume.

    On a cluster the runs are queued in Slurm; `stitching status` shows their progress. Everything is checked before
    anything is written: networks, data sets, checkpoints, and whether Slurm would take the jobs.
    """
    launch = _Launch(cluster, pack, jobs, _changes(slurm, array_parallelism), dry_run)
    plans = launch.checked(sweep_files(sweeps), seeds, data_path)
    launch.start(
        [(found, _in_states(found, only)) for found in plans], _again("submit", sweeps, cluster, seeds, data_path)
    )


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
    timeout: Annotated[bool, typer.Option("--timeout", help="Runs that reached the time limit.")] = False,
    out_of_memory: Annotated[bool, typer.Option("--out-of-memory", help="Runs that ran out of memory.")] = False,
    node_failure: Annotated[bool, typer.Option("--node-failure", help="Runs whose node failed.")] = False,
    diverged: Annotated[bool, typer.Option("--diverged", help="Runs whose loss became NaN or infinite.")] = False,
    cancelled: Annotated[bool, typer.Option("--cancelled", help="Cancelled runs.")] = False,
    cluster: Annotated[str | None, typer.Option(help="Where to run; default: where they were submitted.")] = None,
    pack: Pack = PACK,
    jobs: Jobs = 1,
    seeds: Seeds = None,
    data_path: DataPath = None,
    array_parallelism: ArrayParallelism = None,
    slurm: SlurmOptions = None,
    dry_run: DryRun = False,
) -> None:
    """Submit failed runs again: those that the options name, or all but cancelled and diverged ones.

    A run that diverged would diverge again at the same step: change its config first.
    Runs resume from their checkpoints. Nodes that failed under runs of the sweep are excluded.
    """
    wanted = {
        "error": failed, "killed": failed, "time limit": timeout, "out of memory": out_of_memory,
        "node failure": node_failure, "preempted": node_failure, "cancelled": cancelled,
        "diverged": diverged,
    }  # fmt: skip
    causes = {cause for cause, asked in wanted.items() if asked} or set(wanted) - {"cancelled", "diverged"}
    files = sweep_files(sweeps)
    plans = [plan_of(path, seeds=seeds, data_path=data_path) for path in files]
    launches, unknown = [], 0
    for path, found, runs in zip(files, plans, _statuses_of(plans), strict=True):
        unknown_here = _print_unknown(path, runs)
        unknown += unknown_here
        names = {run.name for run in runs if run.state in ("failed", "stopped") and run.cause in causes}
        left_out = sum(run.cause == "diverged" and "diverged" not in causes for run in runs)
        if left_out:
            out.print(f"{left_out} runs diverged, and would again: they are left out; --diverged retries them")
        if not names:
            if not unknown_here:
                out.print(f"{path}: no failed runs to retry", markup=False, soft_wrap=True)
            continue
        launch = _Launch(cluster or _cluster_of(found, names), pack, jobs, _changes(slurm, array_parallelism), dry_run)
        _leave_out_failed_nodes(launch, found)
        launch.checked([path], seeds, data_path)
        launches.append((launch, found, names))
    for launch, found, names in launches:
        launch.start([(found, names)], _again("retry", sweeps, launch.cluster, seeds, data_path))
    if unknown:
        raise typer.Exit(1)


@app.command(epilog="Examples: `stitching cancel across-scales/digits.yml`")
def cancel(places: Places) -> None:
    """Cancel queued and running jobs. `submit` resumes them later."""
    from stitching.launch.schedulers.slurm_queue import cancel as cancel_jobs
    from stitching.launch.status import in_queue

    for place in places:
        folder, _ = expected_of(place)
        held = in_queue(folder)
        ids = list(dict.fromkeys(task.id for task in held.values()))
        cancel_jobs(ids)
        out.print(f"{len(held)} runs in {len(ids)} tasks cancelled")


class _Launch:
    """Where and how runs are started."""

    def __init__(self, cluster: str, pack: int, jobs: int, changes: dict[str, Any], dry_run: bool) -> None:
        self.cluster = cluster
        self.pack = pack
        self.jobs = jobs
        self.changes = changes  # to the cluster's profile
        self.dry_run = dry_run
        self.profiles: dict[Path, Profile] = {}  # by the folder of the plan

    def checked(self, files: list[Path], seeds: list[int] | None, data_path: Path | None) -> list[Any]:
        """The plans, once all that can be known before the queue is right; else everything that is wrong at once."""
        from stitching.launch.schedulers.slurm import check_path, check_profile
        from stitching.launch.schedulers.slurm_commands import check_controller
        from stitching.launch.status import in_queue
        from stitching.launch.submit import not_done

        mistakes = ErrorCollector()
        plans, profiles = [], {}
        settled = set()  # files of which nothing is to be submitted: Slurm need not take them
        if self.cluster != "local":
            for path in files:
                with mistakes.collect():
                    profiles[path] = load_profile(self.cluster, path, self.changes)
        if profiles:
            check_controller()
        for path in files:
            with mistakes.collect():
                found = plan_of(path, seeds=seeds, data_path=data_path, data=True)
                plans.append(found)
                if path in profiles:
                    check_path(found.folder)
                    self.profiles[found.folder] = profiles[path]
                    if {run.name for run in not_done(found)} <= in_queue(found.folder).keys():
                        settled.add(path)
        asked = set()
        for path, profile in profiles.items():
            if path not in settled and profile.model_dump_json() not in asked:
                asked.add(profile.model_dump_json())
                with mistakes.collect():
                    check_profile(self.cluster, profile)
        mistakes.raise_all()
        return plans

    def start(self, chosen: Sequence[tuple[Any, set[str] | None]], again: str) -> None:
        """Run or queue the plans' runs that have the given names (None: all) and are not done."""
        if self.dry_run and self.cluster == "local":
            raise UserError("there is no script of the cluster local", do="`stitching plan` shows what would run.")
        if not self.dry_run:
            self._fetch_weights(chosen)
        if self.cluster == "local":
            went_well = [self._run_here(found, names, again) for found, names in chosen]
            if not all(went_well):
                out.print(f"To retry the failed runs: {again}", markup=False, soft_wrap=True)
                raise typer.Exit(1)
            return
        for found, names in chosen:
            self._queue(found, names)
        if not self.dry_run:
            places = shlex.join(str(found.folder) for found, _ in chosen)
            out.print(f"To see their progress: stitching status {places}", markup=False, soft_wrap=True)

    def _fetch_weights(self, chosen: Sequence[tuple[Any, set[str] | None]]) -> None:
        """Fetch what all runs that are to start need, before the first of them is queued."""
        from stitching.launch.prefetch_weights import fetch_weights
        from stitching.launch.submit import not_done

        with shown_progress(err, "weights") as on_progress:
            fetch_weights([run for found, names in chosen for run in not_done(found, names)], on_progress)

    def _run_here(self, found: Any, names: set[str] | None, again: str) -> bool:
        """Run a plan on this machine; False if a run of it failed."""
        from stitching.launch.status import sweep_status
        from stitching.launch.submit import submit as submit_plan
        from stitching.runs.stopping import Interrupted

        try:
            with shown_progress(err, "steps") as on_progress:
                outcome = submit_plan(
                    found, "local", pack=self.pack, jobs=self.jobs, among=names, on_progress=on_progress
                )
        except Interrupted:
            err.print(f"Stopped; every run has a checkpoint. To resume: {again}", markup=False, soft_wrap=True)
            raise typer.Exit(130) from None
        done = len(outcome.started) - len(outcome.failures)
        out.print(
            f"{done} runs done, {len(outcome.done_before)} done before, {len(outcome.failures)} failed; in "
            f"{found.folder}",
            soft_wrap=True,
        )
        for name, reason in outcome.failures.items():
            out.print(f"  {name}: {reason}", markup=False, soft_wrap=True)
        checks = [found.expected(run) for run in found.runs if run.stitch.control == "self"]
        for status in sweep_status(found.folder, checks):
            if status.state == "done" and status.words:
                out.print(f"  {status.name}: {status.words}", style="bold red", markup=False, soft_wrap=True)
        return not outcome.failures

    def _queue(self, found: Any, names: set[str] | None) -> None:
        from stitching.launch.submit import scripts_for_slurm, submit_to_slurm

        profile = self.profiles[found.folder]
        if self.dry_run:
            for script in scripts_for_slurm(found, profile, pack=self.pack, among=names):
                print(script)
            return
        with shown_progress(err, "runs") as on_progress:
            queued = submit_to_slurm(found, self.cluster, profile, pack=self.pack, among=names, on_progress=on_progress)
        runs = sum(len(task.runs) for task in queued.tasks)
        ids = ", ".join(dict.fromkeys(task.id.partition("_")[0] for task in queued.tasks))
        out.print(
            f"{runs} runs submitted in {len(queued.tasks)} tasks" + (f" (Slurm's {ids})" if ids else ""),
            f"{len(queued.done_before)} done before, {len(queued.in_queue_before)} in the queue before",
            sep="; ", soft_wrap=True,
        )  # fmt: skip
        print_outdated([run.name for run in queued.outdated], found.folder)


def _changes(slurm: list[str] | None, array_parallelism: int | None) -> dict[str, Any]:
    changes = parse_assignments(slurm or [], "--slurm", "partition=long")
    return changes | ({"array_parallelism": array_parallelism} if array_parallelism else {})


def _again(command: str, sweeps: list[Path], cluster: str, seeds: list[int] | None, data_path: Path | None) -> str:
    more = ["--seeds", *map(str, seeds)] if seeds else []
    more += ["--data-path", str(data_path)] if data_path else []
    return shlex.join(["stitching", command, *map(str, sweeps), "--cluster", cluster, *more])


def _in_states(found: Any, only: list[str] | None) -> set[str] | None:
    if not only:
        return None
    (runs,) = _statuses_of([found])
    return {run.name for run in runs if run.state in only}


def _statuses_of(plans: Sequence[Any]) -> list[list[Any]]:
    """The status of every run of every plan; Slurm is asked once for all of them."""
    from stitching.launch.status import status_of_all

    expected = [[found.expected(run) for run in found.runs] for found in plans]
    statuses = iter(status_of_all([(found.folder, runs) for found, runs in zip(plans, expected, strict=True)]))
    return [list(itertools.islice(statuses, len(runs))) for runs in expected]


def _print_unknown(path: Path, runs: Sequence[Any]) -> int:
    """Say of how many runs it cannot be known whether they failed, and why; returns their number."""
    unknown = [run for run in runs if run.state == "unknown"]
    if unknown:
        reason = unknown[0].words.partition("; ")[2]
        err.print(
            f"{path}: the state of {len(unknown)} runs is unknown, because Slurm cannot be asked: {reason}",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    return len(unknown)


def _cluster_of(found: Any, names: set[str]) -> str:
    """The cluster that the runs were submitted to."""
    from stitching.launch.status import newest_tasks

    newest = newest_tasks(found.folder)
    clusters = sorted({newest[name].cluster if name in newest else "local" for name in names})
    if len(clusters) > 1:
        raise UserError(f"the failed runs were submitted to {' and '.join(clusters)}", do="Choose one with --cluster.")
    return clusters[0]


def _leave_out_failed_nodes(launch: _Launch, found: Any) -> None:
    """Have Slurm keep off the nodes that failed under runs of the sweep."""
    from stitching.launch.status import failed_nodes

    nodes = failed_nodes(found.folder) if launch.cluster != "local" else []
    if nodes:
        known = launch.changes.get("sbatch.exclude")
        launch.changes["sbatch.exclude"] = ",".join(dict.fromkeys([*([str(known)] if known else []), *nodes]))
        out.print(f"Excluded, because they failed before: {', '.join(nodes)}", markup=False, soft_wrap=True)
