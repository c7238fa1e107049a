"""From run folders to tables: every run of a project with its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml

from stitching.config.errors import UserError
from stitching.config.parts import NetPart
from stitching.training.files import RunFolder
from stitching.training.results import read_result

__all__ = ["accuracy_table", "base_accuracies", "load_runs"]

ACCURACY = "Overall/Test Accuracy"


def load_runs(folder: str | Path) -> pd.DataFrame:
    """The finished runs below `folder`, a row each: metadata, and the test accuracy (0 to 1) after the last epoch.

    A network that stands for several cells of a sweep (finetune over [1,1] and [1,2], say) has a row for each.

    Raises:
        UserError: there is no such folder, or no finished run in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    rows = []
    for path in sorted(folder.rglob("metadata*.yml")):
        if "stale" in path.relative_to(folder).parts:
            continue
        metadata = yaml.safe_load(path.read_text())
        if not isinstance(metadata, dict) or metadata.get("state") != "done":
            continue
        result = RunFolder(path.parent, f"result{path.stem.removeprefix('metadata')}.pkl").result
        accuracy = read_result(result)[ACCURACY].dropna().iloc[-1]
        for cell in [metadata, *metadata.get("also", [])]:
            flat = {key: value for key, value in {**metadata, **cell}.items() if not isinstance(value, (dict, list))}
            rows.append({"folder": str(path.parent), **flat, "accuracy": accuracy})
    if not rows:
        raise UserError(
            f"there is no finished run in {folder}",
            do="`stitching submit SWEEP.yml --cluster local` makes some.",
        )
    return pd.DataFrame(rows)


def base_accuracies(folders: Sequence[str | Path]) -> dict[str, float]:
    """The test accuracy (0 to 1) of whole networks that were trained, by title such as `timm/resnet18`.

    Raises:
        UserError: a folder holds no finished run, or one of something else than a whole network.
    """
    found = {}
    for folder in folders:
        runs = load_runs(folder)
        metadata = yaml.safe_load(next(Path(folder).glob("metadata*.yml")).read_text())
        network = metadata["config"].get("model", {})
        if "Net" not in network:
            raise UserError(
                f"the run in {folder} is of {', '.join(network)}",
                allowed="a whole network: `model: {Net: ...}`",
            )
        found[NetPart.model_validate({"kind": "Net", **network["Net"]}).title] = float(runs["accuracy"].iloc[-1])
    return found


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean accuracy for each pair and gap (rows) and stitcher (columns)."""
    gap = runs["first_deleted_block"].astype(str) + "-" + runs["last_deleted_block"].astype(str)
    named = runs.assign(gap=gap)
    return named.pivot_table(index=["source", "destination", "gap"], columns="adapter", values="accuracy", sort=False)
