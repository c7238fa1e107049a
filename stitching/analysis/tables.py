"""From run folders to tables: every run of a project with its accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from stitching.config.errors import UserError
from stitching.config.job import JobSettings
from stitching.config.parts import NetPart
from stitching.sweeps.stitchers import STITCHERS
from stitching.training.files import RunFolder
from stitching.training.results import ACCURACY, read_result

__all__ = [
    "accuracy_table",
    "adapters_in",
    "base_accuracies",
    "cells_of",
    "each_run",
    "load_runs",
    "varied_settings",
]


def load_runs(folder: str | Path) -> pd.DataFrame:
    """The finished runs below `folder`, a row each: metadata, and the test accuracy (0 to 1) after the last epoch.

    A network that stands for several cells of a sweep (finetune over [1,1] and [1,2], say) has a row for each.

    Raises:
        UserError: there is no such folder, or no finished run in it.
    """
    rows = []
    for result, metadata in each_run(folder):
        if metadata.get("state") != "done":
            continue
        tested = read_result(result).get(ACCURACY, pd.Series(dtype=float)).dropna()
        if tested.empty:
            raise UserError(f"{result} has no {ACCURACY!r}", do="It needs one data set and the metric `accuracy`.")
        accuracy = float(tested.iloc[-1])
        rows += [{"folder": str(result.parent), **cell, "accuracy": accuracy} for cell in cells_of(metadata)]
    if not rows:
        raise UserError(
            f"there is no finished run in {folder}",
            do="`stitching submit SWEEP.yml --cluster local` makes some.",
        )
    return pd.DataFrame(rows)


def each_run(folder: str | Path, *, brief: bool = True) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The runs below `folder` in the order of their names, but those that moved aside as stale: result and metadata.

    Args:
        folder: where run folders are, at any depth.
        brief: without the config, the versions and the weights in the metadata.

    Raises:
        UserError: there is no such folder, or metadata cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    for path in sorted(folder.rglob("metadata*.yml")):
        if "stale" not in path.relative_to(folder).parts:
            run = RunFolder.of_metadata(path)
            yield run.result, run.read_metadata(brief=brief) or {}


def cells_of(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """The single values in a run's metadata, once for each cell of its sweep that it stands for."""
    return [
        {key: value for key, value in {**metadata, **cell}.items() if not isinstance(value, (dict, list))}
        for cell in [metadata, *metadata.get("also", [])]
    ]


def base_accuracies(folders: Sequence[str | Path]) -> dict[str, float]:
    """The test accuracy (0 to 1) of whole networks that were trained, by title such as `timm/resnet18`.

    Raises:
        UserError: a folder holds no finished run, one of something else than a whole network, or several runs.
    """
    found = {}
    for folder in folders:
        runs = load_runs(folder)
        if len(runs) > 1:
            raise UserError(f"there are {len(runs)} runs in {folder}", allowed="the one run of a base network")
        (metadata,) = (metadata for _, metadata in each_run(folder, brief=False) if metadata.get("state") == "done")
        network = metadata["config"].get("model", {})
        if "Net" not in network:
            raise UserError(
                f"the run in {folder} is of {', '.join(network)}",
                allowed="a whole network: `model: {Net: ...}`",
            )
        found[NetPart.model_validate({"kind": "Net", **network["Net"]}).title] = float(runs["accuracy"][0])
    return found


def adapters_in(runs: pd.DataFrame) -> list[str]:
    """The stitchers of `runs`, in the order of the documentation; unknown ones last."""
    known = {name: place for place, name in enumerate(STITCHERS)}
    return sorted(runs["adapter"].unique(), key=lambda name: (known.get(name, len(known)), name))


def varied_settings(runs: pd.DataFrame) -> list[str]:
    """The job's keys that differ between `runs`, a grid's for example; seed and device apart."""
    keys = [name for name in runs.columns if name.split(".")[0] in JobSettings.model_fields and name != "device"]
    return [name for name in keys if runs[name].nunique(dropna=False) > 1]


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, the mean over seeds, for each pair, gap and varied setting (rows) and stitcher (columns).

    Raises:
        UserError: the runs are not of a sweep.
    """
    if "adapter" not in runs:
        raise UserError("these runs are not of a sweep: they name no gap and no stitcher")
    gap = runs["first_deleted_block"].astype(str) + "-" + runs["last_deleted_block"].astype(str)
    rows = ["source", "destination", "gap", *varied_settings(runs)]
    table = runs.assign(gap=gap).pivot_table(index=rows, columns="adapter", values="accuracy", sort=False, dropna=False)
    return table.dropna(how="all")[adapters_in(runs)]
