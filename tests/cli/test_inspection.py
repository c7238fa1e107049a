"""What `stitching inspect` prints is what a sweep does, and its costs add up."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from stitching.cutting import cut_points
from stitching.models import building
from stitching.models.spec import ModelSpec

SMALLNET = ["local/smallnet", "--arg", "width=8", "--arg", "in_chans=1"]
SWEEP = """\
gaps: [{blocks_to_drop: [1, 1]}, {blocks_to_drop: [1, 2]}]
stitchers: [affine, finetune]
train_config: {dataset: digits, data_preprocessing: {image_size: 32}}
"""


@pytest.fixture
def printed(cli):
    def call(*arguments: str) -> str:
        outcome = cli("inspect", *arguments)
        assert outcome.code == 0, outcome.err
        return outcome.out

    return call


def test_cut_points_in_order_with_their_sizes(printed):
    points = json.loads(printed(*SMALLNET, "--json"))["cut_points"]
    assert [p["name"] for p in points if p["name"].endswith(".3")] == [f"blocks.{i}.3" for i in range(4)]
    assert [p["size"] for p in points if p["name"].endswith(".3")] == [[8, 16, 16], [8, 8, 8], [8, 4, 4], [8, 2, 2]]
    assert (points[0]["name"], points[-1]["name"], points[-1]["format"]) == ("x", "head", "vector")


@pytest.mark.parametrize("arguments", [SMALLNET, ["timm/resnet18"], ["torchvision/swin_t"]], ids=lambda given: given[0])
def test_what_lies_before_and_after_adds_up(printed, arguments):
    points = json.loads(printed(*arguments, "--json"))["cut_points"]
    for of in ("parameters", "macs"):
        assert len({p[f"{of}_before"] + p[f"{of}_after"] for p in points}) == 1
        before = [p[f"{of}_before"] for p in points]
        assert before == sorted(before)
        assert (before[0], points[-1][f"{of}_after"]) == (0, 0)


def test_parameters_and_size_are_those_of_the_front(printed):
    model = building.build(ModelSpec.parse("local/smallnet", width=8, in_chans=1)).eval()
    traced = cut_points.trace(model)
    start, *points = cut_points.cut_points(traced, (1, 32, 32))
    told = json.loads(printed(*SMALLNET, "--json"))["cut_points"][1:]
    for point, place in zip(points, told, strict=True):
        front = cut_points.extract(traced, start, point)
        assert sum(p.numel() for p in front.parameters()) == place["parameters_before"]
        assert list(front(torch.zeros(1, 1, 32, 32)).shape[1:]) == place["size"]


def test_the_table_has_every_cut_point(printed):
    names = [p["name"] for p in json.loads(printed(*SMALLNET, "--json"))["cut_points"]]
    lines = [line.split() for line in printed(*SMALLNET).splitlines()[2:]]
    assert [line[1] for line in lines] == names
    assert lines[1][2:4] == ["img", "8x32x32"]


def test_stages_follow_each_other(printed):
    stages = json.loads(printed("timm/resnet18", "--stages", "--json"))["stages"]
    assert len(stages) == 8
    assert [stage["in_format"] for stage in stages[1:]] == [stage["out_format"] for stage in stages[:-1]]
    whole = json.loads(printed("timm/resnet18", "--json"))["cut_points"][0]
    assert sum(stage["parameters"] for stage in stages) == whole["parameters_after"]
    assert sum(stage["macs"] for stage in stages) == whole["macs_after"]
    assert len(printed("timm/resnet18", "--stages").splitlines()) == 2 + 8


def test_an_image_size_of_ones_own(printed):
    points = json.loads(printed("timm/resnet18", "--image-size", "64", "--json"))["cut_points"]
    assert points[0]["size"] == [3, 64, 64]
    assert next(p for p in points if p["name"] == "layer4.1.act2")["size"] == [512, 2, 2]


def test_pasted_stages_are_the_runs_that_the_model_alone_gives(cli, write, printed):
    given = {"model_name": "smallnet", "width": 8, "in_chans": 1}
    short = write("short.yml", yaml.safe_dump({"models": [given]}) + SWEEP)
    pasted = write("pasted.yml", printed(*SMALLNET, "--yaml") + SWEEP)
    plans = [json.loads(cli("plan", path, "--json").out) for path in (short, pasted)]
    networks = [[run["network"] for run in plan] for plan in plans]
    assert networks[0] == networks[1]
    assert [run["control"] for run in plans[0]] == [None] * 4 + ["base"]
    assert [run["identity"] for run in plans[0]] == [run["identity"] for run in plans[1]]


TWO_PATHS = """\
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return x + self.conv2(self.conv1(x))


class TwoPaths(nn.Module):
    default_input_shape = 3, 8, 8

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x):
        x = self.blocks[0](x)
        return self.blocks[3](self.blocks[2](self.blocks[1](x)) + x).mean((2, 3))
"""


def test_stages_say_where_the_model_cannot_be_cut(printed, write):
    model = f"module:{write('two_paths.py', TWO_PATHS)}:TwoPaths"
    table = printed(model, "--stages").splitlines()
    assert table[-3:] == [
        "2 of 4 blocks end where the model cannot be cut:",
        "  blocks.1: blocks.0.add 3x8x8 and blocks.1.add 3x8x8 cross",
        "  blocks.2: blocks.0.add 3x8x8 and blocks.2.add 3x8x8 cross",
    ]
    data = json.loads(printed(model, "--stages", "--json"))
    assert (data["blocks"], [block["block"] for block in data["uncut_blocks"]]) == (4, ["blocks.1", "blocks.2"])
