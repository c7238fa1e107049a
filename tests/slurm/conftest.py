"""A sweep for the one-machine Slurm, and the profiles that it is submitted with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import forked
import pandas as pd
import pytest
import yaml
from on_slurm import frames

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
def only_first_fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first task that Slurm starts is a fresh interpreter, as ever; those after it are forked."""
    (tmp_path / "bin").mkdir()
    forking = forked.interpreter(tmp_path / "bin")
    either = tmp_path / "bin" / "fresh-once"
    first = f'[ -n "$SLURM_JOB_ID" ] && mkdir "{tmp_path}/bin/started" 2> /dev/null'
    either.write_text(f'#!/bin/sh\n{first} && exec "{sys.executable}" "$@"\nexec "{forking}" "$@"\n')
    either.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(either))


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch) -> Callable[..., Path]:
    """Write a sweep of five runs into a project of its own: four stitched networks, and the whole one.

    They take a few steps, unless `epochs` says how many whole epochs.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # jobs inherit it
    (tmp_path / "experiments").mkdir()
    (tmp_path / "sbatch").mkdir()
    (tmp_path / "sbatch" / "clusters.yml").write_text(PROFILES)
    return partial(_write_sweep, tmp_path)


@pytest.fixture(scope="session")
def left_here(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, pd.DataFrame]]:
    """What the runs of `sweep` leave that are trained on this machine, undisturbed; for each settings once."""
    frames_by_settings: dict[str, dict[str, pd.DataFrame]] = {}

    def train_here(**train_config: object) -> dict[str, pd.DataFrame]:
        settings = yaml.safe_dump(train_config)
        if settings not in frames_by_settings:
            path = _write_sweep(tmp_path_factory.mktemp("here"), **train_config)
            (path.parent / "experiments").mkdir()
            command = forked.stitching("submit", path, "--cluster", "local", "--pack", "4")
            forked.run(command, check=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})
            frames_by_settings[settings] = frames(path)
        return frames_by_settings[settings]

    return train_here


def _write_sweep(folder: Path, name: str = "small", **train_config: object) -> Path:
    length = {} if "epochs" in train_config else {"epochs": 2, "max_batches": 4}
    data = {
        "project": "tests",
        "models": [{"model_name": "smallnet", "num_blocks": 4, "width": 8, "in_chans": 1}],
        "gaps": [{"blocks_to_drop": [1, 1]}, {"blocks_to_drop": [1, 2]}],
        "stitchers": ["affine", "downsample_then_block"],
        "train_config": {
            "dataset": "digits", "data_preprocessing": {"image_size": 32}, "batch_size": 128,
            "optimizer_args": {"lr": 0.01}, **length, **train_config,
        },
    }  # fmt: skip
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(data))
    return path
