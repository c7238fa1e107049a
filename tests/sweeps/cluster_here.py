"""A small sweep to run in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sweeps import ROW, in_this_process, write_sweep


@pytest.fixture
def without_processes(monkeypatch):
    """Have what is submitted to this machine run in this process."""
    monkeypatch.setattr("stitching.launch.schedulers.worker_pool.run_locally", in_this_process)


@pytest.fixture
def sweep(tmp_path) -> Path:
    return write_sweep(tmp_path / "small.yml", **ROW)
