"""A cluster without processes, and a small sweep to run on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sweeps import ROW, in_this_process, write_sweep

import stitching.launch.submit as submitting


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setitem(submitting.CLUSTERS, "here", in_this_process)


@pytest.fixture
def sweep(tmp_path) -> Path:
    return write_sweep(tmp_path / "small.yml", **ROW)
