"""The sweeps that are shipped: they load, plan, and hold what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sweeps import (
    NINE_DOWNSAMPLES,
    NINE_GAPS,
    gaps,
    plan_of,
    planned,
    stitched_cells,
    stitched_runs,
)

from stitching.config.sweep import read_sweep
from stitching.config.yaml import load_yaml

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for path in (ROOT / "across-scales").glob("*.yml") if "models:" in path.read_text())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_load(path):
    sweep = read_sweep(load_yaml(path))
    assert f"\nfrozen_norm: {sweep.frozen_norm}" in path.read_text()  # stated, not left to the default
    if path.stem == "digits":
        return
    config = sweep.train_config
    assert (config.dataset, config.epochs, config.batch_size, config.seed) == ("imagenet", 10, 256, 12345)
    assert (config.optimizer, config.optimizer_args) == ("AdamW", {"lr": 2e-3, "weight_decay": 0.05})
    assert config.lr_scheduler == "CosineAnnealingLR"
    assert config.lr_scheduler_args is not None
    assert config.lr_scheduler_args.torch_args == {"T_max": 10, "eta_min": 0}
    assert config.lr_scheduler_args.cadence == "epochs"
    assert config.data_preprocessing.data_augmentation == "default"
    assert sweep.frozen_norm == "batch"
    assert [gap.blocks_to_drop for gap in sweep.gaps] == NINE_GAPS
    assert [gap.num_downsamples for gap in sweep.gaps] == NINE_DOWNSAMPLES


def test_all_ten_pairs_are_shipped():
    assert {path.stem for path in SHIPPED} == {*RUNS_AND_DECLINED, "digits"}


# Runs and declined cells of each; the other cells of its 90 are networks that stand in another cell already. Two
# sequences decline convolutions and bottlenecks (five of ten stitchers); between two architectures there is no finetune
# unless the sizes meet by chance.
RUNS_AND_DECLINED = {
    "mobilenet-v3": (69, 4),
    "mobilenet-v3-resnet-50": (66, 9),
    "resnet-50": (72, 0),
    "resnet-50-swin-t": (66, 9),
    "resnet-50-vit-small": (71, 9),
    "swin-t": (72, 0),
    "swin-t-resnet-50": (66, 9),
    "vit-small": (27, 45),
    "vit-small-resnet-50": (66, 9),
    "vit-small-swin-t": (66, 9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS_AND_DECLINED)
def test_shipped_sweeps_plan(name):
    plan = plan_of(ROOT / "across-scales" / f"{name}.yml")
    assert len(stitched_cells(plan)) == 90
    assert (len(stitched_runs(plan)), len(plan.declined)) == RUNS_AND_DECLINED[name]
    models = {row.title for run in plan.entries for row in (run.stitch.source, run.stitch.dest)}
    assert len(plan.runs) - len(stitched_runs(plan)) == len(models)  # each is tested whole
    assert not (ROOT / "experiments" / "across-scales").exists()


@pytest.mark.slow
def test_real_models_stitch_in_every_direction(tmp_path):
    models = ["timm/resnet50", "torchvision/swin_t", "timm/vit_small_patch16_224"]
    plan = planned(
        tmp_path, models=models, gaps=gaps([1, 2], [3, 6]), stitchers="all",
        train_config={"dataset": "imagenet", "data_preprocessing": {"image_size": 224}},
    )  # fmt: skip
    assert len(stitched_cells(plan)) == 9 * 2 * 16
    assert len(plan.entries) - len(stitched_cells(plan)) == 3
    cells = stitched_cells(plan)
    images = [run for run in cells if "vit" not in run.stitch.source.title and run.stitch.stitcher != "finetune"]
    assert [run.name for run in images if run.declined] == []
