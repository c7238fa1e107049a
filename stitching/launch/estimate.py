"""How long the runs of a plan will take: from those of the same pair that are done, or from a short trial."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import median

from stitching.config.errors import UserError
from stitching.progress import ProgressCallback
from stitching.runs.kinds import Pace, kind_of
from stitching.sweeps.plan import Plan, PlannedRun

__all__ = ["Estimate", "Pace", "calibrated", "estimated", "paces_of_finished"]

Pair = tuple[str, ...]  # equal for runs that take alike, `PlannedRun.pace_key`

LOOKED_AT = 50  # finished runs of a pair


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
        if run.name not in done or len(paces_of.get(run.pace_key, [])) >= LOOKED_AT:
            continue
        metadata = plan.folder_of(run).read_metadata(brief=True) or {}
        seconds, epochs, steps = (metadata.get(key) or 0 for key in ("seconds", "epoch", "steps"))
        if seconds and epochs and steps:
            pace = Pace(seconds / epochs, steps / epochs, str(metadata.get("device", "unknown")))
            paces_of.setdefault(run.pace_key, []).append(pace)
    return {
        pair: Pace(
            median(pace.seconds_per_epoch for pace in paces), median(pace.steps_per_epoch for pace in paces),
            paces[-1].device,
        )
        for pair, paces in paces_of.items()
    }  # fmt: skip


def calibrated(plan: Plan, on_progress: ProgressCallback) -> dict[Pair, Pace]:
    """The pace of one run of each pair, that of median cost: a few real steps and tests on this machine.

    Raises:
        UserError: the data or weights are not there, or a run cannot be trained.
    """
    by_pair: dict[Pair, list[PlannedRun]] = {}
    for run in plan.runs:
        if run.only_tests:
            continue
        by_pair.setdefault(run.pace_key, []).append(run)
    tried = {}
    for number, (pair, runs) in enumerate(by_pair.items()):
        on_progress(number, len(by_pair), f"trying {' to '.join(pair)}")
        run = sorted(runs, key=lambda run: run.cost.macs if run.cost else 0)[len(runs) // 2]
        assert run.job is not None
        try:
            tried[pair] = kind_of(run.job).pace(run.job)
        except UserError as error:
            error.problem = f"{run.name} failed its trial: {error.problem}"
            raise
    return tried


def estimated(plan: Plan, paces: Mapping[Pair, Pace], done: set[str]) -> Estimate:
    """What the runs that are not among `done` will take, where the pace of their pair is known.

    Those that are only tested take next to nothing beside the others, and do not count.
    """
    seconds, unknown = 0.0, 0
    left = [run for run in plan.runs if run.name not in done and not run.only_tests]
    for run in left:
        pace = paces.get(run.pace_key)
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
