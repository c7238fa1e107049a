"""Runs and records of Slurm as they lie on disk, made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stitching.launch.records import Record, new_record, write_record
from stitching.runs.folder import RunFolder, write_yaml
from stitching.runs.step_log import StepLog


def put_run(sweep: Path, name: str, state: str = "done", **metadata: Any) -> RunFolder:
    """A run's folder, with a result if it is done."""
    folder = RunFolder(sweep / name)
    folder.path.mkdir(parents=True)
    (folder.path / "config.yml").write_text("model: {}\n")
    if state == "done":
        log = StepLog()
        log.add({"Step": 1, "Epoch": 1, "Loss": 2.0, "LR": 0.1})
        metadata["digests"] = log.save(folder.result)
    write_yaml(folder.metadata, {"state": state, **metadata})
    return folder


def put_record(sweep: Path, job: str | None, *tasks: Sequence[str], code: str = "a1b2c3d4e5f6") -> Record:
    """A record of tasks, each with the names of its runs; with their pickles and logs."""
    slurm = sweep / "slurm"
    record = replace(new_record(slurm, "test", code, tasks), job=job)
    (slurm / record.name).mkdir(parents=True)
    write_record(slurm, record)
    for id in record.ids():
        for ending in ("submitted.pkl", "0_log.out"):
            (slurm / record.name / f"{id}_{ending}").write_text("x" * 1000)
    return record
