"""Which runs of a plan share a task, and with it a pass over the data."""

from __future__ import annotations

from collections.abc import Iterable

from stitching.runs.kinds import kind_of
from stitching.sweeps.plan import PlannedRun

__all__ = ["packed"]


def packed(runs: Iterable[PlannedRun], size: int) -> list[list[PlannedRun]]:
    """The runs of a plan in packs of at most `size` that can share a loop and start from the same model."""
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in runs:
        assert run.job is not None
        kind = kind_of(run.job)
        groups.setdefault((run.starts_from, kind.name, kind.share_key(run.job) or run.name), []).append(run)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
