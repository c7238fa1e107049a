"""A real Slurm for these tests: started once, and stopped at the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cluster
import pytest
import yaml

PROFILES = """\
test: {partition: gpu, gpus: 1, cpus: 1, memory_gb: 1, minutes: 30}
short: {partition: gpu, gpus: 1, cpus: 1, memory_gb: 1, minutes: 1, signal_seconds: 40}
"""


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


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """Write a sweep of four runs into a project of its own."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # jobs inherit it
    (tmp_path / "experiments").mkdir()
    (tmp_path / "sbatch").mkdir()
    (tmp_path / "sbatch" / "clusters.yml").write_text(PROFILES)

    def write(name: str = "small", **train_config) -> Path:
        data = {
            "project": "tests",
            "models": [{"model_name": "convnet", "num_blocks": 4, "width": 8, "in_chans": 1}],
            "gaps": [{"blocks_to_drop": [1, 1]}, {"blocks_to_drop": [1, 2]}],
            "stitchers": ["affine", "downsample_then_block"],
            "train_config": {
                "dataset": "digits", "data_preprocessing": {"image_size": 32}, "epochs": 2, "batch_size": 128,
                "optimizer_args": {"lr": 0.01}, **train_config,
            },
        }  # fmt: skip
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write
