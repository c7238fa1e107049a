"""A real Slurm for these tests: started once, and stopped at the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cluster
import pytest


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running one-machine Slurm; skips, with the reason, where it cannot be had.

    With STITCHING_NEED_SLURM=1 in the environment that is an error instead.
    """
    folder = tmp_path_factory.mktemp("slurm")
    before = dict(os.environ)
    try:
        cluster.start(folder)
    except (cluster.Trouble, OSError, subprocess.SubprocessError) as trouble:
        cluster.stop(folder)
        if os.environ.get("STITCHING_NEED_SLURM"):
            raise
        pytest.skip(f"no Slurm here: {trouble}")
    yield folder
    cluster.stop(folder)
    os.environ.clear()
    os.environ.update(before)
