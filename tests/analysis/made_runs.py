"""Run folders as a sweep leaves them, written by hand, so that every number in them is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stitching.runs.folder import write_yaml
from stitching.runs.step_log import ACCURACY, StepLog

RESNET, VIT = "timm/resnet18", "timm/vit_tiny"


def make_run(
    folder: Path, name: str, accuracy: float, *, pair=(RESNET, VIT), gap=(1, 2), adapter="affine", seed=1, **more: Any
) -> Path:
    """A finished run whose last test accuracy is `accuracy`; `more` goes to its metadata."""
    run = folder / name
    run.mkdir(parents=True)
    metadata = {
        "name": name, "source": pair[0], "destination": pair[1], "first_deleted_block": gap[0],
        "last_deleted_block": gap[1], "adapter": adapter, "seed": seed, "state": "done", "device": "cpu", **more,
    }  # fmt: skip
    write_yaml(run / "metadata.yml", metadata)
    # The first epoch's accuracy is a wrong answer; the row after the last test is of no epoch's end.
    log = [
        {"Epoch": 1, ACCURACY: 0.99},
        {"Epoch": 2, ACCURACY: accuracy, "Overall/Test Agreement": 1.0 if more.get("control") == "self" else accuracy},
        {"Epoch": 3},
    ]
    StepLog([{"Step": step, **row} for step, row in enumerate(log, 1)]).save(run / "result.pkl")
    return run


def make_base(folder: Path, accuracy: float, model: dict[str, Any]) -> Path:
    """A base network's run: its config names what it is."""
    run = make_run(folder.parent, folder.name, accuracy)
    metadata = {"name": folder.name, "seed": 1, "state": "done", "parameters": 2 * 10**6, "macs": 10**9}
    write_yaml(run / "metadata.yml", {**metadata, "config": {"model": model}})
    return run
