"""This machine: tasks in processes of their own, a few at once, until all have ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from stitching.config.bounds import Count
from stitching.config.clusters import ClusterProfile
from stitching.launch.schedulers import HERE, SCHEDULERS, Cluster, Scheduler, Started
from stitching.progress import ProgressCallback
from stitching.runs.folder import RunFolder

__all__ = ["Local", "LocalProfile"]


class LocalProfile(ClusterProfile):
    """What may be said of this machine."""

    jobs: Annotated[Count, Field(le=10_000)] = 1  # processes at once


@SCHEDULERS.register(HERE)
class Local(Scheduler):
    """This machine. There is no queue: whoever submits waits for the end, and Ctrl-C stops what runs."""

    profile = LocalProfile
    needs_profile = False

    def start(
        self, tasks: Sequence[Sequence[RunFolder]], folder: Path, cluster: Cluster, on_progress: ProgressCallback
    ) -> Started:
        """Nothing is started before `run` is called."""
        assert isinstance(cluster.profile, LocalProfile)
        jobs = cluster.profile.jobs

        def run() -> dict[str, str]:
            from stitching.launch.schedulers.worker_pool import run_locally  # torch: other commands do without it

            return run_locally([list(task) for task in tasks], jobs=jobs, on_progress=on_progress)

        return Started(run=run)
