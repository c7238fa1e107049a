"""Small jobs on real digits, and what it takes to train them and compare what they leave."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from stitching.config.job_config import Job
from stitching.config.yaml import Document
from stitching.runs.folder import RunFolder
from stitching.runs.kinds import RunOptions, RunRequest, read_job
from stitching.runs.step_log import TIMING_COLUMNS, read_result
from stitching.training.session import train

NARROW_RESNET = {
    "backend": "timm", "model_name": "resnet18", "pretrained": False, "num_classes": 10, "in_chans": 1,
    "channels": [8, 8, 12, 16], "layers": [2, 1, 1, 1],
}  # fmt: skip


def stitched(front: str, back: str, adapter: dict | None = None, **settings) -> dict:
    """A job that stitches a narrow ResNet with itself; six small steps an epoch."""
    train_config = {
        "dataset": "digits", "data_preprocessing": {"image_size": 16}, "seed": 3, "epochs": 2, "batch_size": 32,
        "max_batches": 6, "optimizer_args": {"lr": 0.01},
    } | settings.pop("train_config", {})  # fmt: skip
    adapter = adapter or {"SimpleAdapter": {"num_conv": 1, "kernel_size": 1}}
    return {
        "model": {
            "Assembly": {
                "parts": [
                    {"Subnet": {**NARROW_RESNET, "block_output": front, "frozen": True}},
                    adapter,
                    {"Subnet": {**NARROW_RESNET, "block_input": back, "frozen": True}},
                ]
            }
        },
        "train_config": train_config,
        **settings,
    }


WHOLE_EPOCHS = {"batch_size": 256, "max_batches": None}  # of six batches, the last of which is smaller


def job_of(data: dict, folder: Path) -> Job:
    """The job as it would be read from a config in `folder`."""
    return read_job(Document(folder / "config.yml", data))


def trained(data: dict | list[dict], folder: Path, **options):
    """Train one job, or several in a pack, each in a folder of its own; returns the runs."""
    several = data if isinstance(data, list) else [data]
    setups = [RunRequest(job_of(one, folder), RunFolder(folder / f"run-{i}")) for i, one in enumerate(several)]
    return train(setups, RunOptions(**options))


def frame_of(folder: Path) -> pd.DataFrame:
    """A run's dataframe without what no two runs have in common: the timings."""
    frame = read_result(folder / "result.pkl")
    return frame.drop(columns=[name for name in TIMING_COLUMNS if name in frame])


def same(left: Path, right: Path) -> None:
    """Assert that two runs left the same dataframe, bit for bit."""
    pd.testing.assert_frame_equal(frame_of(left), frame_of(right), check_exact=True)


def write_config(folder: Path, data: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder
