"""Blocks and stages: the published cuts, and a partition of the whole model for any family."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from stitching.config.errors import UserError
from stitching.cutting.cut_points import TracedModel, cut_points, extract, resolve, trace
from stitching.cutting.stages import find_blocks, find_stages
from stitching.models.building import build, build_meta
from stitching.models.spec import ModelSpec

VIT = "timm/vit_small_patch16_224"


@lru_cache
def traced(title: str) -> TracedModel:
    return trace(build_meta(ModelSpec.parse(title)))


def names(title: str) -> list[str]:
    return [f"{stage.block_input} {stage.block_output}" for stage in find_stages(traced(title))]


def test_resnet_50_is_eight_stages() -> None:
    assert names("timm/resnet50") == [
        "x layer1.0", "layer1.1 layer1", "layer2.0 layer2.0", "layer2.1 layer2",
        "layer3.0 layer3.0", "layer3.1 layer3", "layer4.0 layer4.0", "layer4.1 fc",
    ]  # fmt: skip
    stages = find_stages(traced("timm/resnet50"))
    assert [str(stage.out_format) for stage in stages[:3]] == ["img 256x56x56", "img 256x56x56", "img 512x28x28"]
    assert (str(stages[0].in_format), str(stages[-1].out_format)) == ("img 3x224x224", "vector 1000")
    assert [stage.name for stage in stages[:3]] == ["x-layer1.0", "layer1.1-layer1", "layer2.0"]


def test_twelve_equal_blocks_are_cut_as_published() -> None:
    """0 | 1-2 | 3 | 4-5 | 6 | 7-8 | 9 | 10-11."""
    assert names(VIT) == [
        "x blocks.0", "blocks.1 blocks.2", "blocks.3 blocks.3", "blocks.4 blocks.5",
        "blocks.6 blocks.6", "blocks.7 blocks.8", "blocks.9 blocks.9", "blocks.10 head",
    ]  # fmt: skip


def test_the_four_resolutions_of_mobilenet_begin_where_112_becomes_56() -> None:
    formats = [str(stage.out_format) for stage in find_stages(traced("timm/mobilenetv3_large_100"))]
    assert [text.rpartition("x")[2] for text in formats[:-1]] == ["56", "56", "28", "28", "14", "14", "7"]


def test_patch_merging_goes_with_the_block_behind_it() -> None:
    assert names("torchvision/swin_t") == [
        "x features.1.0", "features.1.1 features.1", "features.2 features.3.0", "features.3.1 features.3",
        "features.4 features.5.0", "features.5.1 features.5", "features.6 features.7.0", "features.7.1 head",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("title", "count"),
    [
        ("timm/resnet50", 16),
        ("torchvision/swin_t", 12),
        (VIT, 12),
        ("timm/mobilenetv3_large_100", 15),
        ("timm/convnext_atto", 12),
        ("timm/regnety_002", 13),
        ("timm/levit_128s", 9),
        ("timm/densenet121", 4),
        ("local/smallnet", 4),
        ("torchvision/googlenet", 12),
        ("timm/mobilenetv4_conv_small", 16),
        ("timm/pvt_v2_b0", 8),
        pytest.param("timm/vit_small_patch16_dinov3", 12, marks=pytest.mark.slow),
        pytest.param("timm/pit_ti_224", 12, marks=pytest.mark.slow),
        pytest.param("timm/twins_svt_small", 18, marks=pytest.mark.slow),
        pytest.param("timm/mvitv2_tiny", 10, marks=pytest.mark.slow),
        pytest.param("timm/xcit_nano_12_p16_224", 14, marks=pytest.mark.slow),
        pytest.param("timm/naflexvit_base_patch16_gap", 12, marks=pytest.mark.slow),
        pytest.param("timm/davit_tiny", 12, marks=pytest.mark.slow),
        pytest.param("timm/davit_small", 24, marks=pytest.mark.slow),
    ],
)
def test_blocks(title: str, count: int) -> None:
    blocks = find_blocks(traced(title))
    assert len(blocks) == count
    assert len(find_stages(traced(title), "blocks")) == count


PARTITIONED = [
    "timm/resnet18", "timm/convnext_atto", "timm/levit_128s", "timm/densenet121", "timm/regnety_002", "timm/vgg11",
    "timm/mixer_s32_224", "timm/poolformer_s12", "timm/repvgg_a0", "timm/pvt_v2_b0", "torchvision/alexnet",
    "torchvision/squeezenet1_0", "torchvision/googlenet", "torchvision/shufflenet_v2_x0_5", "torchvision/swin_t",
    "torchvision/vit_b_16", "local/smallnet",
]  # fmt: skip
MORE_PARTITIONED = [
    "timm/swin_tiny_patch4_window7_224", "timm/efficientnet_b0", "timm/cait_xxs24_224", "timm/mobilevit_xxs",
    "timm/fastvit_t8", "timm/convmixer_768_32", "timm/dla34", "torchvision/vgg11_bn", "torchvision/inception_v3",
    "torchvision/densenet121", "torchvision/regnet_y_400mf",
]  # fmt: skip


@pytest.mark.parametrize(
    "title", [*PARTITIONED, *(pytest.param(title, marks=pytest.mark.slow) for title in MORE_PARTITIONED)]
)
def test_stages_are_a_partition_whose_names_lead_back(title: str) -> None:
    cut = traced(title)
    points, stages = cut_points(cut), find_stages(cut)
    assert 4 <= len(stages) <= 8
    position = points[0]
    for stage in stages:
        start, end = resolve(cut, stage.block_input, "input"), resolve(cut, stage.block_output, "output")
        assert start == position
        assert end.index > start.index
        assert (stage.in_format, stage.out_format) == (start.format, end.format)
        position = end
    assert position == points[-1]


def test_where_to_cut_does_not_depend_on_the_image() -> None:
    small = find_stages(traced("timm/resnet18"), "stages", (3, 8, 8))
    usual = find_stages(traced("timm/resnet18"))
    assert [stage.name for stage in small] == [stage.name for stage in usual]
    assert str(small[5].out_format) == "img 256x1x1"


def test_stages_run_one_after_the_other() -> None:
    model = build(ModelSpec.parse("local/smallnet")).eval()
    cut = trace(model)
    images = torch.randn(2, 3, 8, 8)
    x = images
    for stage in find_stages(cut, "stages", (3, 8, 8)):
        x = extract(cut, resolve(cut, stage.block_input, "input"), resolve(cut, stage.block_output))(x)
        assert tuple(x.shape) == stage.out_format.shape(2)
    assert torch.equal(x, model(images))


def test_named_depths() -> None:
    stages = find_stages(traced(VIT), ["blocks.2", "blocks.8.add"])
    assert [(stage.block_input, stage.block_output) for stage in stages] == [
        ("x", "blocks.2"), ("blocks.3", "blocks.8.add"), ("blocks.8.norm2", "head"),
    ]  # fmt: skip
    assert find_stages(traced(VIT), ["blocks.2", "head"])[-1].block_output == "head"


@pytest.mark.parametrize(
    ("depths", "told"),
    [
        ("layers", "depths is 'layers'"),
        (["blocks.3", "blocks.1"], r"depths\.1: 'blocks\.1' does not come after 'blocks\.3'"),
        (["x"], r"depths\.0: nothing comes before 'x'"),
        (["blocks.1.attn"], r"depths\.0: the output of 'blocks\.1\.attn'.*2 values cross"),
        (["block.1"], "did you mean 'blocks.1'"),
    ],
)
def test_depths_that_do_not_work(depths: str | list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        find_stages(traced(VIT), depths)
