"""A sweep for the one-machine Slurm, and the profiles that it is submitted with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
import yaml

PROFILES = """\
test: {partition: gpu, gpus: 1, cpus: 1, memory_gb: 1, minutes: 30}
short: {partition: gpu, gpus: 1, cpus: 1, memory_gb: 1, minutes: 1, signal_seconds: 40}
"""


@pytest.fixture(autouse=True)
def _forked_tasks(forked_tasks: None) -> None:
    """What is run here, and not on Slurm, is what Slurm's runs are compared with."""


@pytest.fixture
def forked_on_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a task does on Slurm is forked, where a test is about the queue and not about how a task starts or ends."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr(sys, "executable", forked.interpreter(tmp_path / "bin"))


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """Write a sweep of five runs into a project of its own: four stitched networks, and the whole one."""
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
