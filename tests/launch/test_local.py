"""What processes are given that run side by side on this machine."""

from __future__ import annotations

import pytest

from stitching.launch.schedulers import worker_pool


@pytest.mark.parametrize(("tasks", "jobs", "share"), [(5, 1, "8"), (5, 3, "2"), (2, 8, "4"), (100, 100, "1")])
def test_each_has_its_share_of_the_cpus(tmp_path, monkeypatch, tasks, jobs, share):
    monkeypatch.setattr(worker_pool, "cpus_of_process", lambda: 8)
    pool = worker_pool._Pool(tasks, jobs, lambda *_: None, tmp_path)
    assert pool.environment["STITCHING_CPUS"] == share
