"""How long the commands for a sweep take when it has 10,000 runs: `make benchmarks` prints the numbers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from stitching.config.yaml import load_yaml
from stitching.launch.records import RECORDS
from stitching.launch.submitted import submitted_tasks
from stitching.runs.folder import write_yaml
from stitching.runs.step_log import StepLog
from stitching.sweeps.plan import Plan
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.studies import make_plan

pytestmark = pytest.mark.slow

EPOCHS = 10


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of 10,034 runs: 66 networks of ResNet-50's front and Swin-T's back with 19 seeds and 8 learning rates, and
    a test of each of the two whole."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "experiments").mkdir()
    (folder / "sbatch").mkdir()
    (folder / "sbatch" / "clusters.yml").write_text("gpu: {partition: gpu, gpus: 1, sbatch: {hold: true}}\n")
    gaps = [[1, 1], [1, 2], [1, 4], [1, 6], [3, 3], [3, 4], [3, 6], [5, 5], [5, 6]]
    sweep = {
        "project": "benchmarks",
        "models": [
            {"model_name": "timm/resnet50", "pretrained": False, "num_classes": 10},
            {"model_name": "torchvision/swin_t", "pretrained": False, "num_classes": 10},
        ],
        "pairs": [["timm/resnet50", "torchvision/swin_t"]],
        "gaps": [{"blocks_to_drop": gap} for gap in gaps],
        "seeds": list(range(19)),
        "grid": {"train_config.optimizer_args.lr": [n / 1000 for n in range(1, 9)]},
        "train_config": {
            "dataset": "digits", "data_preprocessing": {"image_size": 224, "channels": 3}, "epochs": EPOCHS,
        },
    }  # fmt: skip
    path = folder / "large.yml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return path


@pytest.fixture
def timed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[float, str]]:
    """Run a command of ours in a process of its own; its seconds, start of Python included, and what it prints."""

    def run(*arguments: str | Path) -> tuple[float, str]:
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "stitching", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        with capsys.disabled():
            print(
                f"\n  {seconds:6.1f} s  stitching {' '.join(arg.name if isinstance(arg, Path) else arg for arg in arguments)}"
            )
        return seconds, done.stdout

    return run


def test_planning(timed, large, capsys):
    first, out = timed("plan", large)
    assert "10034 runs" in out
    assert first < 68 + 5  # under a second for each network that is new
    seconds, out = timed("plan", large)
    assert "10034 runs" in out
    assert seconds < 15  # most of it is the import of torch, torchvision and timm
    known = PlanCache()
    make_plan(load_yaml(large), cache=known)
    began = time.perf_counter()
    make_plan(load_yaml(large), cache=known)
    seconds = time.perf_counter() - began
    with capsys.disabled():
        print(f"\n  {seconds:6.1f} s  of it planning itself")
    assert seconds < 5


def test_submitting_and_looking_at_what_waits(timed, large, slurm):
    timed("submit", large, "--cluster", "gpu", "--pack", "1")
    folder = large.parent / "experiments" / "benchmarks" / "large"
    tasks = submitted_tasks(folder / RECORDS)
    assert len(tasks) == 10034
    assert len(list((folder / RECORDS).glob("*.json"))) <= 12  # one for each call of sbatch
    seconds, out = timed("status", folder)
    assert "10034 pending" in out
    assert seconds < 10
    timed("cancel", folder)


def test_looking_at_what_is_done(timed, large):
    plan = make_plan(load_yaml(large))
    _finish(plan)
    seconds, out = min(timed("status", plan.folder) for _ in range(2))  # once without what the disk still writes
    assert "10034 done" in out
    assert seconds < 5
    seconds, out = timed("plan", large)
    assert "10034 runs (10034 done)" in out
    seconds, out = timed("collect", plan.folder, "-o", large.parent / "all.parquet")
    cells = len(plan.entries) - len(plan.declined)  # some networks stand for several
    assert f"{cells * EPOCHS} rows of 10034 runs" in out
    assert seconds < 120  # 46 to 70 s, as fast as the machine happens to be


def _finish(plan: Plan) -> None:
    """Write what finished runs leave, with made-up numbers."""
    random = np.random.default_rng(0)
    log = StepLog()
    for step in range(5 * EPOCHS):
        log.add({"Step": step + 1, "Epoch": step // 5 + 1, "Loss": 2.0, "LR": 1e-3, "Accuracy": 0.1, "Time/Data": 0.1,
                 "Time/Step": 0.2, "Time/Img Per Sec": 300.0, "Proc Mem": 1.0})  # fmt: skip
        if step % 5 == 4:
            log.extend_last({"Overall/Train Loss": 2.0, "Overall/Train Accuracy": 0.1, "Overall/Test Loss": 2.0,
                             "Overall/Test Accuracy": 0.2, "Time/Per Epoch": 1.5})  # fmt: skip
    for run in plan.runs:
        assert run.job is not None
        folder = plan.folder_of(run)
        folder.path.mkdir(parents=True, exist_ok=True)
        digests = log.save(folder.result)
        accuracy = float(random.random())
        metadata = {
            **plan.metadata(run), "state": "done", "identity": run.identity, "steps": 50, "total_steps": 50,
            "seconds": 100.0, "epoch": EPOCHS, "device": "made up", "digests": digests,
            "versions": {"code": "made up"}, "weights": {}, "config": run.job.to_yaml(),
            "final": {"Overall/Test Loss": 2.0, "Overall/Test Accuracy": accuracy},
        }  # fmt: skip
        write_yaml(folder.path / "config.yml", run.job.to_yaml())
        write_yaml(folder.metadata, metadata)
