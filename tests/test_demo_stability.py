"""The demo's numbers are about the networks, not about the processor: rounding otherwise moves none of them by two points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from stitching import last_epoch, load_results

ROOT = Path(__file__).parent.parent
STITCH = ["source", "destination", "gap", "adapter", "control"]
# Two threads add in another order than one, and the older instructions round otherwise: what another machine does.
OTHER_ROUNDING = {
    "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE",
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}  # fmt: skip


def _stitching(folder: Path, *arguments: str, **variables: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "-m", "stitching", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def _accuracies(folder: Path) -> pd.Series:
    """Each stitch's mean test accuracy over its seeds, in percent."""
    last = last_epoch(load_results(folder / "experiments/demo/digits"))
    return last.groupby(STITCH, dropna=False)["Overall/Test Accuracy"].mean() * 100


@pytest.mark.slow
def test_rounding_moves_no_mean_of_the_demo_by_two_points(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        for name in (
            "across-scales/digits.yml",
            *(f"experiments/digits/{net}/weights.pth" for net in ("resnet", "vit")),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    submit = ("submit", "across-scales/digits.yml", "--cluster", "local", "--pack", "32", "--jobs", "2")
    _stitching(first, *submit)
    _stitching(second, *submit, **OTHER_ROUNDING)

    differences = (_accuracies(first) - _accuracies(second)).abs().sort_values()
    print(
        f"{len(differences)} stitches differ by {differences.mean():.2f} points on average, {differences.max():.2f} at most"
    )
    assert differences.notna().all()
    assert differences.max() <= 2, differences.tail(10).to_string()
