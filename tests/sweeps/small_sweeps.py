"""Small sweeps on real digits, and what it takes to plan them and compare what their runs leave."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from stitching.config.yaml import load_yaml
from stitching.launch.orders import Order
from stitching.launch.schedulers import Cluster, Started
from stitching.launch.schedulers.local import Local, LocalProfile
from stitching.launch.submit import Submission, state_of, submit_all
from stitching.launch.tasks import run_task
from stitching.runs.folder import RunFolder
from stitching.runs.step_log import TIMING_COLUMNS, read_result
from stitching.sweeps.plan import Plan, PlannedRun
from stitching.sweeps.plan_cache import PlanCache
from stitching.sweeps.studies import make_plan

RESNET = {
    "backend": "timm", "model_name": "resnet18", "pretrained": False, "num_classes": 10, "in_chans": 1,
    "channels": [8, 8, 16, 16],
}  # fmt: skip
VIT = {
    "backend": "timm", "model_name": "vit_tiny_patch16_224", "pretrained": False, "num_classes": 10, "in_chans": 1,
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 8,
}  # fmt: skip
SMALLNET = {"model_name": "smallnet", "num_blocks": 4, "width": 8, "in_chans": 1}

NINE_GAPS = [[1, 1], [1, 2], [1, 4], [1, 6], [3, 3], [3, 4], [3, 6], [5, 5], [5, 6]]
NINE_DOWNSAMPLES = [0, 1, 2, 3, 0, 1, 2, 0, 1]


def gaps(*blocks: list[int], **more: Any) -> list[dict[str, Any]]:
    return [{"blocks_to_drop": pair, **more} for pair in blocks]


def write_sweep(path: Path, **keys: Any) -> Path:
    """A sweep's file: what is not said is a row of ResNet blocks, one gap, and `affine` on digits."""
    preprocessing = {"image_size": keys.pop("image_size", 32)}
    train_config = {"dataset": "digits", "data_preprocessing": preprocessing, "seed": 3, "epochs": 1}
    train_config |= {"batch_size": 256, "optimizer_args": {"lr": 0.01}} | keys.pop("train_config", {})
    data = {"stitchers": ["affine"], **keys, "train_config": train_config}
    if not {"models", "stages", "src_stages"} & data.keys():
        data["models"] = [RESNET]
    if "gaps" not in data:
        data["gaps"] = gaps([1, 2])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


KNOWN = PlanCache()  # a plan is the same with it, as tests/launch/test_what_is_left.py holds


def plan_of(path: Path) -> Plan:
    return make_plan(load_yaml(path), cache=KNOWN)


def planned(folder: Path, **keys: Any) -> Plan:
    """The plan of a sweep written to `folder`."""
    return plan_of(write_sweep(folder / "small.yml", **keys))


def stitched_cells(plan: Plan) -> list[PlannedRun]:
    """The plan's cells without the whole networks, which every plan tests beside what it stitches."""
    return [run for run in plan.entries if run.stitch.control != "base"]


def stitched_runs(plan: Plan) -> list[PlannedRun]:
    """The plan's runs without the whole networks, which every plan tests beside what it stitches."""
    return [run for run in plan.runs if run.stitch.control != "base"]


def stitched_planned(folder: Path, **keys: Any) -> list[PlannedRun]:
    """The stitched runs of a sweep written to `folder`."""
    return stitched_runs(planned(folder, **keys))


def frame_of(folder: Path) -> pd.DataFrame:
    """A run's dataframe without what no two runs have in common: the timings."""
    frame = read_result(folder / "result.pkl")
    return frame.drop(columns=[name for name in TIMING_COLUMNS if name in frame])


# ------------------------------------------------------------------------ submitting them


ROW = {
    "models": [SMALLNET], "gaps": gaps([1, 1], [1, 2]), "stitchers": ["affine", "downsample_then_block"], "image_size": 8,
}  # fmt: skip
BLOCKS = "downsample_then_block"


def in_this_process(tasks: list[list[RunFolder]], *, jobs: int, on_progress) -> dict[str, str]:
    """A cluster that needs no processes: what a task does is the same wherever it runs."""
    failures: dict[str, str] = {}
    for task in tasks:
        failures |= run_task([folder.path for folder in task], on_progress)
    return failures


def cluster_of(run: Callable[..., dict[str, str]], jobs: int = 1) -> Cluster:
    """A cluster whose tasks are run by a function such as `in_this_process`."""

    class Here(Local):
        def start(self, tasks, folder, cluster, on_progress):
            return Started(run=lambda: run(tasks, jobs=jobs, on_progress=on_progress))

    return Cluster("here", Here("here"), LocalProfile())


HERE = cluster_of(in_this_process)


def submit(plan: Plan, cluster: Cluster = HERE, pack: int = 8, among: Collection[str] | None = None) -> Submission:
    (submission,) = submit_all([Order.of(plan, cluster, among)], pack=pack)
    return submission


def go(path: Path, cluster: Cluster = HERE, pack: int = 8) -> tuple[Plan, Submission]:
    plan = plan_of(path)
    return plan, submit(plan, cluster, pack)


def states(plan: Plan) -> set[str]:
    return {state_of(plan, run) for run in plan.runs}


def frames(plan: Plan) -> dict[str, pd.DataFrame]:
    return {run.name: frame_of(plan.folder / run.name) for run in plan.runs}


def assert_same(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True)


def times_started(folder: Path) -> int:
    """How often a run came through its first epoch, or through its only test if it is a whole network's, by its log."""
    log = (folder / "log.txt").read_text()
    return log.count("before training," if folder.name.startswith("base-") else "epoch 1,")
