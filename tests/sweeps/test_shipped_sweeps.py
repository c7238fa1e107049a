"""The sweeps that are shipped: they load, plan, and hold what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest
from published_counts import BOTTLENECK, CONV3X3, EIGHT, GAPS, LINEAR, adapter_parameters, interface, parameters
from small_sweeps import (
    KNOWN,
    NINE_DOWNSAMPLES,
    NINE_GAPS,
    gaps,
    plan_of,
    planned,
    stitched_cells,
    stitched_runs,
)

from stitching.config.job_config import Job
from stitching.config.sweep import read_sweep
from stitching.config.yaml import load_yaml
from stitching.nets.build import BuildOptions, build_network
from stitching.sweeps.stitchers import STITCHERS, Declined, Interface
from stitching.sweeps.studies import make_plan

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
    assert (sweep.frozen_norm, sweep.adapter_init, sweep.published) == ("batch", "published", True)
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
    "vit-small": (24, 45),
    "vit-small-resnet-50": (60, 9),
    "vit-small-swin-t": (60, 9),
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
    if name in EIGHT:
        counts = {(run.stitch.gap, run.stitch.stitcher): _trained(run) for run in stitched_cells(plan)}
        stitchers = ("finetune", *LINEAR, *CONV3X3, *BOTTLENECK)
        assert counts == {
            (gap, stitcher): parameters(*EIGHT[name], gap, stitcher) for gap in GAPS for stitcher in stitchers
        }


def _trained(run):
    return None if run.declined else run.trainable


# ------------------------------------------------------------------------ published counts


def test_of_the_eight_published_sweeps_635_stitches_are_kept_and_85_declined():
    """The arithmetic; that the plans have the same stitches is `test_shipped_sweeps_plan`."""
    stitchers = ("finetune", *LINEAR, *CONV3X3, *BOTTLENECK)
    counts = [parameters(*models, gap, stitcher) for models in EIGHT.values() for gap in GAPS for stitcher in stitchers]
    assert (len(counts), counts.count(None)) == (720, 85)
    assert [gap for gap in GAPS if parameters("mobilenet-v3", "mobilenet-v3", gap, "finetune") is None] == [
        (1, 6), (3, 6), (5, 5), (5, 6),
    ]  # fmt: skip


@pytest.mark.parametrize("stitcher", [*LINEAR, *CONV3X3, *BOTTLENECK])
def test_adapters_have_the_published_parameters(stitcher):
    recipe = STITCHERS[stitcher].adapter
    assert recipe is not None
    for source, dest in EIGHT.values():
        for first, last in ((1, 4), (1, 6)):
            start = interface(source, first - 1)
            expected = adapter_parameters(source, dest, (first, last), stitcher)
            try:
                plan = recipe(Interface(start, interface(dest, last), GAPS[first, last]))
            except Declined:
                assert expected is None
                continue
            job = Job.model_validate({"assembly": plan.parts, "train_config": {"dataset": "digits"}})
            network = build_network(job.network, start, BuildOptions(meta=True))
            assert sum(weight.numel() for weight in network.parameters()) == expected, (source, dest, first, last)


@pytest.mark.parametrize(
    ("sweep", "stitcher", "expected"),
    [
        ("vit-small-swin-t", "downsample_then_bottleneck", 1_886_976),
        ("vit-small", "downsample_then_linear", 448_128),
        # Blocks 0, 10 and 11 with what is around the blocks are 6,080,488; blocks 3, 6 and 9 are kept between them.
        ("vit-small", "finetune", 6_080_488 + 3 * 1_774_464),
    ],
)
def test_counts_of_shipped_sweeps_as_published(sweep, stitcher, expected):
    document = load_yaml(ROOT / "across-scales" / f"{sweep}.yml")
    document.override(("gaps",), document.data["gaps"][3:4], "test")
    document.override(("stitchers",), [stitcher], "test")
    (run,) = stitched_runs(make_plan(document, cache=KNOWN))
    assert run.stitch.gap == (1, 6)
    assert run.trainable == parameters(*EIGHT[sweep], (1, 6), stitcher) == expected


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
