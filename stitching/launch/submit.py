"""Submitting orders: writing run folders with their configs, and handing the tasks to a scheduler."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from stitching.config.errors import UserError, reason_of
from stitching.launch.orders import Order, tasks_of
from stitching.launch.prefetch_weights import fetch_weights
from stitching.launch.records import RECORDS, Submitted, one_submit_at_a_time
from stitching.launch.schedulers import Started
from stitching.launch.stored_code import with_stored_code
from stitching.launch.submitted import queued_runs
from stitching.progress import ProgressCallback
from stitching.runs.folder import FolderBusy, RunFolder, write_yaml
from stitching.runs.state import state_on_disk
from stitching.sweeps.plan import Plan, PlannedRun

__all__ = ["Submission", "state_of", "submit", "submit_all"]

_WRITERS = 8  # run folders that are written at once: most of the time goes by waiting until a disk has a file
ShowProgress = Callable[[str], AbstractContextManager[ProgressCallback]]  # its argument is the unit of what is counted


@dataclass(frozen=True)
class Submission:
    """What submitting an order did."""

    order: Order
    ended: list[PlannedRun]  # those that were run here, `failures` included
    queued: list[Submitted]  # tasks that are in a queue now
    done_before: list[PlannedRun]
    queued_before: list[PlannedRun]
    outdated: list[PlannedRun]  # of these, those that were queued with another config than the plan's
    elsewhere: list[PlannedRun]  # those that another process is training, or has finished meanwhile
    failures: dict[str, str]  # reasons, by the run's name
    refused: dict[str, str] = field(default_factory=dict)  # runs that were not started, each with the reason
    no_answer: dict[str, str] = field(default_factory=dict)  # other schedulers that cannot be asked, with the reason


def state_of(plan: Plan, run: PlannedRun) -> str:
    """What the run's folder says of it now, as `state_on_disk` has it."""
    return state_on_disk(plan.expected(run))[0]


def submit_all(
    orders: Sequence[Order], *, pack: int, show_progress: ShowProgress = lambda _: nullcontext(lambda *_: None)
) -> Iterator[Submission]:
    """Submit orders one after the other, published weights that this machine lacks fetched before the first.

    Args:
        orders: what to submit.
        pack: runs that share one pass over the data, at most.
        show_progress: shows a progress bar that counts in a unit.

    Raises:
        UserError: weights cannot be downloaded, or as `submit` does.
    """
    with show_progress("weights") as on_progress:
        fetch_weights([run for order in orders for run in order.unfinished], on_progress)
    for order in orders:
        with show_progress("steps") as on_progress:
            submission = submit(order, pack=pack, on_progress=on_progress)
        yield submission


def submit(order: Order, *, pack: int, on_progress: ProgressCallback = lambda *_: None) -> Submission:
    """Start the runs of an order that are neither done nor in a queue.

    Runs made with another config are moved to the folder `stale` beside them and run again: an old result never stands
    for a new config, and none is lost. Two of these at once take turns, so that no run is queued twice.

    Args:
        order: what to submit; a run that was done when the order was made counts as done.
        pack: runs that share one pass over the data, at most.
        on_progress: shows progress.

    Raises:
        UserError: the scheduler cannot be asked or takes nothing, or the sweep's folder cannot be written to.
    """
    plan, cluster = order.plan, order.cluster
    records = plan.folder / RECORDS
    with one_submit_at_a_time(plan.folder):
        cluster.scheduler.settle(records)
        held, no_answer = queued_runs(plan.folder)
        if cluster.scheduler.name in no_answer:
            raise UserError(no_answer.pop(cluster.scheduler.name))
        prepared, refused = _prepare_all(order, [run for run in order.unfinished if run.name not in held], on_progress)
        tasks = tasks_of(plan, prepared, pack)
        started = cluster.scheduler.start(tasks, records, cluster, on_progress) if tasks else Started()
    failures = started.run()
    queued = {name for task in started.tasks for name in task.runs}
    # Another `submit` of the same plan may have been faster with some of them, and be at them still.
    ended = {
        run.name
        for run in prepared
        if run.name not in queued and (run.name in failures or state_of(plan, run) == "done")
    }
    queued_before = [run for run in plan.runs if run.name in held]
    settled = {*ended, *queued, *held, *refused}
    return Submission(
        order=order,
        ended=[run for run in plan.runs if run.name in ended],
        queued=started.tasks,
        done_before=[run for run in plan.runs if order.survey.state_of(run) == "done"],
        queued_before=queued_before,
        outdated=[run for run in queued_before if order.survey.state_of(run) == "stale"],
        elsewhere=[run for run in order.unfinished if run.name not in settled],
        failures=failures,
        refused=refused,
        no_answer=no_answer,
    )


def _prepare_all(
    order: Order, runs: Sequence[PlannedRun], on_progress: ProgressCallback
) -> tuple[list[PlannedRun], dict[str, str]]:
    """Prepare the folders of runs; returns the runs to start, and why others cannot be, by name.

    Raises:
        UserError: none of them can be: it is not one run's folder that is wrong.
    """
    prepared = []
    errors: dict[str, UserError] = {}
    with ThreadPoolExecutor(_WRITERS) as pool:
        try:
            written = [pool.submit(_prepare, order.plan, run) for run in runs]
            for number, (run, is_prepared) in enumerate(zip(runs, written, strict=True)):
                on_progress(number, len(runs), "writing configs")
                try:
                    if is_prepared.result():
                        prepared.append(run)
                except UserError as error:
                    errors[run.name] = error
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C
    if errors and len(errors) == len(runs):
        raise next(iter(errors.values()))
    return prepared, {name: str(error) for name, error in errors.items()}


def _prepare(plan: Plan, run: PlannedRun) -> bool:
    """Write a run's config and metadata; False if another process trains it, or has finished it."""
    assert run.job is not None
    folder = plan.folder_of(run)
    try:
        with folder.locked():
            state, metadata = state_on_disk(plan.expected(run))  # it may have changed before the folder was ours
            if state == "done":
                return False
            is_unreadable = metadata.keys() == {"failure"}  # so that nobody knows what the files in the folder are of
            if state == "stale" or is_unreadable:
                _move_aside(plan, folder, "damaged" if is_unreadable else str(metadata["identity"])[:8])
            # Written each time: a config that was damaged on disk is whole again, an old failure forgotten.
            write_yaml(folder.path / "config.yml", with_stored_code(run.job, run.identity, plan.folder).to_yaml())
            write_yaml(folder.metadata, {**plan.metadata(run), "state": "submitted", "identity": run.identity})
    except FolderBusy:
        return False
    return True


def _move_aside(plan: Plan, folder: RunFolder, label: str) -> None:
    aside = plan.folder / "stale" / f"{folder.path.name}-{label}"
    try:
        aside.mkdir(parents=True, exist_ok=True)
        for file in folder.path.iterdir():
            if not file.name.startswith("."):  # not the lock, which is held
                shutil.move(file, aside / file.name)
    except OSError as error:
        raise UserError(f"cannot move the old result in {folder.path} to {aside}: {reason_of(error)}") from None
