"""Finding the failed runs of sweeps, to submit them again."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stitching.config.errors import UserError
from stitching.launch.orders import Order, Survey, check_orders, statuses_of
from stitching.launch.schedulers import HERE, load_cluster
from stitching.launch.status import RunStatus
from stitching.launch.submitted import failed_nodes, newest_tasks
from stitching.runs.causes import DIVERGED
from stitching.sweeps.plan import Plan

__all__ = ["Retry", "load_retries"]


@dataclass(frozen=True)
class Retry:
    """The runs of one sweep to retry."""

    file: Path
    order: Order | None  # None: there are none
    diverged: int  # runs left out because they would diverge again
    unknown: list[RunStatus]  # runs of which it cannot be known whether they failed
    failed_nodes: list[str]  # which the order excludes


def load_retries(
    sweeps: Sequence[tuple[Path, Plan]], causes: Collection[str], cluster: str | None, changes: Mapping[str, object]
) -> list[Retry]:
    """What to retry of sweeps, checked as `load_orders` does.

    Args:
        sweeps: files with their plans.
        causes: of the failures to retry, from `stitching.runs.causes.CAUSES`.
        cluster: where to; None: where the runs were submitted to.
        changes: values for the keys of the cluster's profile.

    Raises:
        UserError: the runs of a sweep were submitted to several clusters and `cluster` does not say which one to
            use, or as `load_orders` does.
    """
    surveys = [Survey.of(plan) for _, plan in sweeps]
    retries = [
        _retry(file, survey, statuses, causes, cluster, changes)
        for (file, _), survey, statuses in zip(sweeps, surveys, statuses_of(surveys), strict=True)
    ]
    check_orders(retry.order for retry in retries if retry.order)
    return retries


def _retry(
    file: Path,
    survey: Survey,
    statuses: Sequence[RunStatus],
    causes: Collection[str],
    cluster: str | None,
    changes: Mapping[str, object],
) -> Retry:
    folder = survey.plan.folder
    names = frozenset(run.name for run in statuses if run.state in ("failed", "stopped") and run.cause in causes)
    diverged = sum(run.cause == DIVERGED for run in statuses) if DIVERGED not in causes else 0
    unknown = [run for run in statuses if run.state == "unknown"]
    if not names:
        return Retry(file, None, diverged, unknown, [])
    target = load_cluster(cluster or _cluster_of(folder, names), file, changes)
    nodes = failed_nodes(folder)
    profile = target.scheduler.without_nodes(target.profile, nodes) if nodes else target.profile
    left_out = nodes if profile != target.profile else []
    return Retry(file, Order(survey, replace(target, profile=profile), names), diverged, unknown, left_out)


def _cluster_of(folder: Path, names: Collection[str]) -> str:
    """The cluster that runs were submitted to."""
    newest = newest_tasks(folder)
    clusters = sorted({newest[name].cluster if name in newest else HERE for name in names})
    if len(clusters) > 1:
        raise UserError(f"the failed runs were submitted to {' and '.join(clusters)}", do="Choose one with --cluster.")
    return clusters[0]
