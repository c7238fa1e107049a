"""How long the runs of a plan will take: from those of the same pair that are done, or from a short trial."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from stitching.config.errors import UserError
from stitching.runs.folder import RunFolder
from stitching.runs.kinds import RunRequest
from stitching.sweeps.plan import Plan, PlannedRun
from stitching.training.job_data import TaskData
from stitching.training.run_record import device_name
from stitching.training.session import train

__all__ = ["Estimate", "Pace", "calibrated", "estimated", "paces_of_finished"]

Pair = tuple[str, str]  # titles of source and destination

TRIAL_STEPS, TRIAL_TESTS = 12, 4  # batches; the first steps of a trial are slower and do not count
WARM_UP = 4
LOOKED_AT = 50  # finished runs of a pair


@dataclass(frozen=True)
class Pace:
    """How fast runs of a pair are: seconds of one process for each epoch, tests included, and its steps."""

    seconds_per_epoch: float
    steps_per_epoch: float
    device: str


@dataclass(frozen=True)
class Estimate:
    """What is still to do takes `hours` of one process (a GPU as a rule), without the `unknown` runs."""

    hours: float
    runs: int
    unknown: int
    devices: tuple[str, ...]


def paces_of_finished(plan: Plan, done: Collection[str]) -> dict[Pair, Pace]:
    """The median pace of the finished runs (`done`, by name) of each pair; of the first few where there are many."""
    paces_of: dict[Pair, list[Pace]] = {}
    for run in plan.runs:
        if run.name not in done or len(paces_of.get(_pair(run), [])) >= LOOKED_AT:
            continue
        metadata = plan.folder_of(run).read_metadata(brief=True) or {}
        seconds, epochs, steps = (metadata.get(key) or 0 for key in ("seconds", "epoch", "steps"))
        if seconds and epochs and steps:
            pace = Pace(seconds / epochs, steps / epochs, str(metadata.get("device", "unknown")))
            paces_of.setdefault(_pair(run), []).append(pace)
    return {
        pair: Pace(
            median(pace.seconds_per_epoch for pace in paces), median(pace.steps_per_epoch for pace in paces),
            paces[-1].device,
        )
        for pair, paces in paces_of.items()
    }  # fmt: skip


def calibrated(plan: Plan, on_progress: Callable[[int, int, str], None]) -> dict[Pair, Pace]:
    """The pace of one run of each pair, that of median cost: a few real steps and tests on this machine.

    Raises:
        UserError: the data or weights are not there, or a run cannot be trained.
    """
    by_pair: dict[Pair, list[PlannedRun]] = {}
    for run in plan.runs:
        if run.stitch.only_tests:
            continue
        by_pair.setdefault(_pair(run), []).append(run)
    tried = {}
    for number, (pair, runs) in enumerate(by_pair.items()):
        on_progress(number, len(by_pair), f"trying {pair[0]} to {pair[1]}")
        tried[pair] = _try(sorted(runs, key=lambda run: run.cost.macs if run.cost else 0)[len(runs) // 2])
    return tried


def _try(run: PlannedRun) -> Pace:
    assert run.job is not None
    data = TaskData(run.job)
    steps, tests = data.batches_per_epoch, [len(batches) for _, sets in data.tests for batches in sets]
    config = run.job.train_config.model_copy(update={"epochs": 1, "max_batches": TRIAL_STEPS, "max_steps": None})
    job = run.job.model_copy(update={"train_config": config, "save_checkpoints": False})
    with tempfile.TemporaryDirectory(prefix="stitching-trial-") as path:
        (trial,) = train([RunRequest(job, RunFolder(Path(path)))], max_test_batches=TRIAL_TESTS)
    if trial.failure:
        raise UserError(f"{run.name} failed its trial: {trial.failure}")
    frame = trial.log.dataframe()
    step_seconds = frame["Time/Step"] + frame["Time/Data"]
    per_step = float(step_seconds.iloc[min(WARM_UP, len(step_seconds) - 1) :].median())
    per_test = max(0.0, trial.seconds - float(step_seconds.sum())) / sum(min(TRIAL_TESTS, each) for each in tests)
    return Pace(per_step * steps + per_test * sum(tests), steps, device_name(trial.context.device))


def estimated(plan: Plan, paces: Mapping[Pair, Pace], done: set[str]) -> Estimate:
    """What the runs that are not among `done` will take, where the pace of their pair is known.

    Those that are only tested take next to nothing beside the others, and do not count.
    """
    seconds, unknown = 0.0, 0
    left = [run for run in plan.runs if run.name not in done and not run.stitch.only_tests]
    for run in left:
        pace = paces.get(_pair(run))
        assert run.job is not None
        config = run.job.train_config
        if pace is None:
            unknown += 1
            continue
        epochs = max(0.0, config.epochs - run.job.start_epoch)
        if config.max_steps:
            epochs = min(epochs, config.max_steps / pace.steps_per_epoch)
        seconds += pace.seconds_per_epoch * epochs
    return Estimate(seconds / 3600, len(left), unknown, tuple(sorted({pace.device for pace in paces.values()})))


def _pair(run: PlannedRun) -> Pair:
    return run.stitch.source.title, run.stitch.dest.title
