"""Plans: what a sweep will do, and that planning touches nothing."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from small_sweeps import (
    NINE_DOWNSAMPLES,
    NINE_GAPS,
    RESNET,
    SMALLNET,
    VIT,
    gaps,
    plan_of,
    planned,
    stitched_cells,
    stitched_planned,
    stitched_runs,
    write_sweep,
)
from user_errors import files_below

from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml
from stitching.models import building, traced_models
from stitching.models.spec import ModelSpec
from stitching.nets.parts import trained
from stitching.sweeps.plan import PlannedRun
from stitching.sweeps.studies import make_plan

ROOT = Path(__file__).parents[2]


def parts_of(run: PlannedRun) -> list[dict]:
    """The parts of a stitched network, as `--json` has them."""
    return run.as_json()["network"]["Assembly"]["parts"]


# ------------------------------------------------------------------------ gaps


@pytest.mark.parametrize("declared", [False, True])
def test_the_usual_nine_gaps_have_the_usual_downsamplings(tmp_path, declared):
    counts = NINE_DOWNSAMPLES if declared else [None] * 9
    listed = [
        {"blocks_to_drop": pair} | ({"num_downsamples": n} if declared else {})
        for pair, n in zip(NINE_GAPS, counts, strict=True)
    ]
    cells = stitched_cells(planned(tmp_path, gaps=listed))
    assert [list(run.stitch.gap) for run in cells] == NINE_GAPS
    assert [run.stitch.num_downsamples for run in cells] == NINE_DOWNSAMPLES


def test_the_shipped_gaps_are_the_usual_nine_and_suit_an_isotropic_vit(tmp_path):
    (tmp_path / "4-stage-gaps.yml").write_text((ROOT / "across-scales" / "4-stage-gaps.yml").read_text())
    text = (
        write_sweep(tmp_path / "vit.yml", models=[VIT], gaps="@")
        .read_text()
        .replace("'@'", "!include 4-stage-gaps.yml")
    )
    (tmp_path / "vit.yml").write_text(text)
    cells = stitched_cells(plan_of(tmp_path / "vit.yml"))
    assert [list(run.stitch.gap) for run in cells] == NINE_GAPS
    # A ViT halves nothing: what is declared is how many steps the adapter takes.
    assert [run.stitch.num_downsamples for run in cells] == NINE_DOWNSAMPLES
    adapters = [[part for part in parts_of(run) if "SimpleAdapter" in part] for run in cells]
    assert [len(parts) for parts in adapters] == [max(1, n) for n in NINE_DOWNSAMPLES]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("all", [[first, last] for first in range(1, 8) for last in range(first, 7)]),
        ({"max_dropped": 2}, [[first, last] for first in range(1, 7) for last in (first, first + 1) if last < 7]),
        (gaps([3, 4], [1, 1]), [[3, 4], [1, 1]]),
    ],
    ids=["all", "max_dropped", "list"],
)
def test_ways_to_say_which_gaps(tmp_path, asked, expected):
    assert [list(run.stitch.gap) for run in stitched_cells(planned(tmp_path, gaps=asked))] == expected


def test_depths_may_be_blocks_or_names(tmp_path):
    blocks = planned(tmp_path, depths="blocks", gaps="all")
    assert len(blocks.entries[0].stitch.source.stages) == 8
    named = planned(tmp_path, depths=["layer1", "layer3"], gaps="all")
    assert [[stage.block_output for stage in run.stitch.source.stages] for run in stitched_cells(named)] == [
        ["layer1", "layer3", None]
    ]


# ------------------------------------------------------------------------ names, metadata, what is one run


def test_names_and_metadata(tmp_path):
    (run,) = stitched_planned(tmp_path)
    assert run.name == "train-small-gap-1,2-adapter-affine"
    assert planned(tmp_path).folder == tmp_path / "experiments" / "across-scales" / "small"
    assert planned(tmp_path, save_dir="runs").folder == tmp_path / "runs"
    found = planned(tmp_path).metadata(run)
    assert found.pop("macs") > 1e5
    assert found == {
        "name": run.name, "arch": "small", "source": "timm/resnet18", "destination": "timm/resnet18",
        "first_deleted_block": 1, "last_deleted_block": 2, "source_depth": 1 / 8, "destination_depth": 3 / 8,
        "num_downsamples": 1, "adapter": "affine", "seed": 3,
    }  # fmt: skip


def test_finetune_over_two_gaps_is_one_run_under_both_names(tmp_path):
    plan = planned(tmp_path, gaps=gaps([1, 1], [1, 2], [1, 4]), stitchers=["finetune"])
    first, second = stitched_runs(plan)
    assert [first.name, second.name] == [
        "train-small-gap-1,1-adapter-finetune",
        "train-small-gap-1,4-adapter-finetune",
    ]
    both = plan.entries[1]
    assert both.same_as == plan.entries[0].name
    assert both.name == "train-small-gap-1,2-adapter-finetune"
    (also,) = plan.metadata(first)["also"]
    assert (also["name"], also["first_deleted_block"], also["last_deleted_block"]) == (both.name, 1, 2)
    assert "also" not in plan.metadata(second)


def test_finetune_trains_everything_and_keeps_the_downsampling_pieces(tmp_path):
    (run,) = stitched_planned(tmp_path, gaps=gaps([1, 4]), stitchers=["finetune"])
    parts = parts_of(run)
    kept = [(part["Subnet"].get("block_input"), part["Subnet"].get("block_output")) for part in parts]
    assert kept == [(None, "layer1.0"), ("layer2.0", "layer2.0"), ("layer3.0", None)]
    assert run.cost is not None
    assert run.trainable == run.cost.params


def test_finetune_checks_every_join(tmp_path):
    plan = planned(
        tmp_path, models=[RESNET, VIT], pairs=[["timm/resnet18", "timm/vit_tiny_patch16_224"]], stitchers=["finetune"]
    )
    (run,) = stitched_cells(plan)
    assert run.job is None
    assert "sizes do not meet: img 8x8x8 before bert 24x16+1" in (run.declined or "")
    # The piece behind the gap would take what the source gives; the downsampling piece that is kept does not.
    piece = lambda **ends: {"Subnet": {**SMALLNET, **ends}}  # noqa: E731
    source = [piece(block_output="blocks.1"), piece(block_input="blocks.2")]
    dest = [
        piece(block_output="blocks.0"),
        piece(block_input="blocks.1", block_output="blocks.1"),
        piece(block_input="blocks.2"),
    ]
    plan = planned(tmp_path, src_stages=source, dest_stages=dest, gaps=gaps([1, 1]), stitchers=["finetune"])
    (run,) = stitched_cells(plan)
    assert run.declined == "sizes do not meet: img 8x8x8 before img 8x16x16"


def test_seeds_times_grid(tmp_path):
    key = "train_config.optimizer_args.lr"
    plan = planned(tmp_path, seeds=[1, 2], grid={key: [0.1, 0.01], "frozen_norm": ["running", "batch"]})
    names = [run.name.removeprefix("train-small-gap-1,2-adapter-affine") for run in stitched_runs(plan)]
    assert names == [
        f"-lr-{lr}-frozen_norm-{norm}-seed-{seed}"
        for seed in (1, 2)
        for lr in (0.1, 0.01)
        for norm in ("running", "batch")
    ]
    assert len({run.identity for run in stitched_runs(plan)}) == 8
    run = plan.runs[5]
    assert run.job is not None
    assert run.job.train_config.seed == run.seed == 2
    assert run.job.frozen_norm == "batch"
    assert run.job.train_config.optimizer_args == {"lr": 0.1}
    assert plan.metadata(run)[key] == 0.1
    assert plan.metadata(run)["seed"] == 2


def test_a_grid_may_change_the_seed_or_the_size_of_the_images(tmp_path):
    plan = planned(tmp_path, grid={"train_config.seed": [5, 6]})
    assert [run.seed for run in stitched_runs(plan)] == [5, 6]
    assert [run.name for run in plan.runs[2:]] == ["base-small-resnet18"]  # a test has no seed
    plan = planned(tmp_path, grid={"train_config.data_preprocessing.image_size": [32, 64]})
    small, large = stitched_runs(plan)
    assert small.cost is not None
    assert large.cost is not None
    assert large.cost.macs > 3 * small.cost.macs
    assert [run.stitch.source.stages[0].out_format.spatial for run in stitched_runs(plan)] == [(8, 8), (16, 16)]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ("all", ["rr", "rv", "vr", "vv"]),
        ("self", ["rr", "vv"]),
        ("cross", ["rv", "vr"]),
        ([["timm/vit_tiny_patch16_224", "timm/resnet18"]], ["vr"]),
    ],
)
def test_pairs(tmp_path, pairs, expected):
    plan = planned(tmp_path, models=[RESNET, VIT], pairs=pairs)
    short = {"timm/resnet18": "r", "timm/vit_tiny_patch16_224": "v"}
    cells = stitched_cells(plan)
    assert [short[run.stitch.source.title] + short[run.stitch.dest.title] for run in cells] == expected
    assert len({run.name for run in plan.entries}) == len(expected) + 2
    assert {run.name for run in plan.entries} - {run.name for run in cells} == {
        "base-small-resnet18", "base-small-vit_tiny_patch16_224"
    }  # fmt: skip
    assert ("-to-" in cells[0].name) == (len(expected) > 1)


def test_models_of_one_name_from_two_places_keep_apart(tmp_path):
    torchvisions = {"backend": "torchvision", "model_name": "resnet18", "pretrained": False, "num_classes": 10}
    timms = {"backend": "timm", "model_name": "resnet18", "pretrained": False, "num_classes": 10}
    colour = {"data_preprocessing": {"image_size": 32, "channels": 3}}
    plan = planned(tmp_path, models=[timms, torchvisions], train_config=colour)
    assert len({run.name for run in stitched_runs(plan)}) == 4
    assert [run.name for run in plan.runs[4:]] == ["base-small-timm-resnet18", "base-small-torchvision-resnet18"]
    assert plan.runs[1].name == "train-small-timm-resnet18-to-torchvision-resnet18-gap-1,2-adapter-affine"


def test_values_that_look_alike_in_a_name_are_told(tmp_path):
    with pytest.raises(UserError, match="share the folder"):
        planned(tmp_path, grid={"device": ["cuda:1", "cuda/1"]})


# ------------------------------------------------------------------------ the older form


def _typed_out(model: dict) -> list[dict]:
    """The row of a model as one would type it: the same cuts, with the formats declared."""
    title = f"{model['backend']}/{model['model_name']}"
    write_sweep(Path(model["folder"]) / "row.yml", models=[{k: v for k, v in model.items() if k != "folder"}])
    row = plan_of(Path(model["folder"]) / "row.yml").entries[0].stitch.source
    assert row.title == title
    last = "fc" if "resnet" in title else "head"
    return [
        {
            "Subnet": {
                **{key: value for key, value in model.items() if key != "folder"},
                **({"block_input": stage.block_input} if stage.start else {"block_input": "x"}),
                **({"block_output": stage.block_output} if stage is not row.stages[-1] else {"block_output": last}),
                "in_format": stage.in_format.to_yaml(),
                "out_format": stage.out_format.to_yaml(),
            }
        }
        for stage in row.stages
    ]


@pytest.fixture
def typed_out(tmp_path):
    return lambda model: _typed_out({**model, "folder": str(tmp_path)})


def test_the_older_form_gives_the_same_runs(tmp_path, typed_out):
    more = {"gaps": gaps([1, 2], [3, 6]), "stitchers": ["affine", "finetune", "block_with_downsample"]}
    compact = planned(tmp_path, models=[RESNET, VIT], pairs=[["timm/resnet18", "timm/vit_tiny_patch16_224"]], **more)
    older = planned(tmp_path, src_stages=typed_out(RESNET), dest_stages=typed_out(VIT), **more)
    assert [run.as_json() for run in older.entries] == [run.as_json() for run in compact.entries]
    compact = planned(tmp_path, models=[RESNET], **more)
    older = planned(tmp_path, stages=typed_out(RESNET), **more)
    assert [run.as_json() for run in older.entries] == [run.as_json() for run in compact.entries]


def _line_with(path: Path, words: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if words in line)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("- 4\n", "- 5\n", "declared as"),  # the size of layer3's output
        ("block_output: layer2.0", "block_output: layer22.0", "layer2.0"),
        ("num_downsamples: 1", "num_downsamples: 3", "3 downsamplings declared"),
    ],
)
def test_what_is_declared_wrongly_is_told_with_its_line(tmp_path, typed_out, cli, old, new, words):
    path = write_sweep(tmp_path / "older.yml", stages=typed_out(RESNET), gaps=gaps([1, 2], num_downsamples=1))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    outcome = cli("plan", path)
    assert outcome.code == 2
    assert words in outcome.err
    line = int(outcome.err.split("older.yml:")[1].split(":")[0])
    wrong = next(
        i for i, (a, b) in enumerate(zip(text.splitlines(), path.read_text().splitlines(), strict=True), 1) if a != b
    )
    assert 0 <= wrong - line <= 5  # the first line of the value that it stands in


@pytest.mark.parametrize(
    ("key", "declared"),
    [
        ("out_format", ["img", [9, 8, 8]]),
        ("out_format", ["img", [8, 8, 9]]),
        ("in_format", ["bhwc", [1, 32, 32]]),
        ("in_format", "token"),
    ],
)
def test_declared_formats_are_held_against_the_model(tmp_path, typed_out, key, declared):
    stages = typed_out(RESNET)
    stages[0]["Subnet"][key] = declared
    with pytest.raises(UserError, match="the model has img") as caught:
        planned(tmp_path, stages=stages)
    assert caught.value.path == ("stages", 0, "Subnet", key)


# ------------------------------------------------------------------------ purity


def test_planning_twice_gives_the_same_and_touches_nothing(tmp_path, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("planning must not do this")

    path = write_sweep(
        tmp_path / "pure.yml", models=[{**RESNET, "pretrained": True}, {**VIT, "pretrained": True}], seeds=[1, 2],
        pairs="cross", stitchers=["affine", "finetune"],
    )  # fmt: skip
    before = files_below(tmp_path)
    monkeypatch.setattr(traced_models, "build", forbidden)
    monkeypatch.setattr(trained, "build", forbidden)
    monkeypatch.setattr(socket, "socket", forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    traced_models.forget_models()
    state = torch.get_rng_state()
    first = make_plan(load_yaml(path))
    second = make_plan(load_yaml(path))
    assert [run.as_json() for run in first.entries] == [run.as_json() for run in second.entries]
    assert all(run.identity for run in first.runs)
    assert torch.equal(torch.get_rng_state(), state)
    assert files_below(tmp_path) == before


def _checkpoint(path: Path, model: dict, seed: int) -> Path:
    torch.manual_seed(seed)
    torch.save(
        building.build(
            ModelSpec.parse("local/smallnet", **{k: v for k, v in model.items() if k != "model_name"}), seed
        ).state_dict(),
        path,
    )
    return path


def test_the_identity_follows_the_config_and_the_weights(tmp_path):
    checkpoint = _checkpoint(tmp_path / "weights.pt", SMALLNET, 1)
    model = {**SMALLNET, "ckp_path": "weights.pt"}
    (first, base) = planned(tmp_path, models=[model], gaps=gaps([1, 1])).runs
    (other_lr, tested) = planned(
        tmp_path, models=[model], gaps=gaps([1, 1]), train_config={"optimizer_args": {"lr": 0.02}}
    ).runs
    (elsewhere, tested_there) = planned(tmp_path, models=[model], gaps=gaps([1, 1]), save_dir="else", workers=2).runs
    assert first.identity == elsewhere.identity != other_lr.identity
    assert base.identity == tested_there.identity == tested.identity  # a test has no learning rate
    copy = tmp_path / "copy.pt"
    copy.write_bytes(checkpoint.read_bytes())
    (copied, copy_tested) = planned(tmp_path, models=[{**model, "ckp_path": "copy.pt"}], gaps=gaps([1, 1])).runs
    assert copied.identity == first.identity  # by content, not by name
    assert copy_tested.identity == base.identity
    _checkpoint(checkpoint, SMALLNET, 2)
    (changed, changed_base) = planned(tmp_path, models=[model], gaps=gaps([1, 1])).runs
    assert changed.identity != first.identity
    assert changed_base.identity != base.identity


def test_a_checkpoint_of_another_model_is_told_before_anything_runs(tmp_path):
    _checkpoint(tmp_path / "weights.pt", {**SMALLNET, "width": 4}, 1)
    with pytest.raises(UserError, match="do not fit") as caught:
        planned(tmp_path, models=[{**SMALLNET, "ckp_path": "weights.pt"}], gaps=gaps([1, 1]))
    assert caught.value.path == ("models", 0, "ckp_path")
