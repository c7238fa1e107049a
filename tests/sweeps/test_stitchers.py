"""Recipes against the table in their description: channels, sizes, strides, and what they decline."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch

from stitching.config.errors import UserError
from stitching.config.job_config import Job
from stitching.cutting.formats import Format
from stitching.nets.build import BuildOptions, build_network
from stitching.sweeps.stitchers import (
    LEAST_SQUARES,
    STITCHERS,
    AdapterPlan,
    Declined,
    Interface,
)

IMG_56 = Format("img", 32, (56, 56))
IMG_7 = Format("img", 256, (7, 7))
BHWC_14 = Format("bhwc", 96, (14, 14))
BERT_14 = Format("bert", 48, 196, 1)
BERT_7 = Format("bert", 40, 49, 1)
TOKEN_14 = Format("token", 48, 196)

RESIZING = [name for name in STITCHERS if name.startswith("downsample_then") or name == "affine"]
STRIDED = [name for name in STITCHERS if name.endswith("with_downsample")]
AT_SOURCE_SIZE = [name for name in STITCHERS if name.endswith("no_downsample")]
CONVOLUTIONS = ("downsample_then_3x3conv", "conv3x3_with_downsample")
BOTTLENECKS = ("downsample_then_bottleneck", "bottleneck_no_downsample", "bottleneck_with_downsample")


def bridge(name: str, source: Format, dest: Format, downsamples: int = 0) -> AdapterPlan:
    recipe = STITCHERS[name].adapter
    assert recipe is not None
    return recipe(Interface(source, dest, downsamples))


def parts(found: AdapterPlan) -> list[dict[str, Any]]:
    """The arguments of each part."""
    return [next(iter(part.values())) for part in found.parts]


def kinds(found: AdapterPlan) -> list[str]:
    return [next(iter(part)) for part in found.parts]


def channels(found: AdapterPlan) -> list[tuple[int, int]]:
    return [(part["in_channels"], part["out_channels"]) for part in parts(found)]


def sizes(found: AdapterPlan) -> list[tuple[int, ...]]:
    return [tuple(part["in_format"][1][1:]) for part in parts(found)]


def test_the_default_set_is_as_documented():
    assert [name for name, entry in STITCHERS.items() if entry.is_default] == [
        "finetune", "linear_no_downsample", "linear_relu_no_downsample", "bottleneck_no_downsample",
        "downsample_then_linear", "downsample_then_linear_relu", "downsample_then_3x3conv",
        "downsample_then_bottleneck", "conv3x3_with_downsample", "bottleneck_with_downsample",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in STITCHERS if name not in ("finetune", LEAST_SQUARES)])
@pytest.mark.parametrize(
    ("downsamples", "expected"),
    [
        (0, [(32, 256)]),  # at least one step, forced to the destination
        (1, [(32, 256)]),
        (2, [(32, 64), (64, 256)]),
        (3, [(32, 64), (64, 128), (128, 256)]),
    ],
)
def test_channels_double_step_by_step_and_end_at_the_destinations(name, downsamples, expected):
    assert channels(bridge(name, IMG_56, IMG_7, downsamples)) == expected


@pytest.mark.parametrize("downsamples", [0, 1, 3])
def test_what_is_fitted_in_closed_form_is_one_step_at_the_destinations_size(downsamples):
    (part,) = bridge(LEAST_SQUARES, IMG_56, IMG_7, downsamples).parts
    (expected,) = bridge("affine", IMG_56, IMG_7, 1).parts
    assert part["SimpleAdapter"] == {**expected["SimpleAdapter"], "init": "least_squares"}


@pytest.mark.parametrize(
    ("source", "dest", "expected"),
    [
        (IMG_7, BERT_7, {"prefix_tokens": 1}),
        (BHWC_14, Format("bert", 40, 49, 5), {"prefix_tokens": 5}),
        (TOKEN_14, BERT_7, {"prefix_tokens": 1, "fc_format": "token"}),
        (BERT_14, Format("bert", 40, 49, 5), {"prefix_tokens": 4, "fc_format": "bert"}),
        (BERT_14, BERT_7, {"fc_format": "bert"}),
        (BERT_14, IMG_7, {}),
        (BERT_14, Format("token", 40, 49), {"fc_format": "token"}),
    ],
    ids=str,
)
def test_what_is_fitted_makes_the_prefix_tokens_that_the_source_has_not(source, dest, expected):
    (part,) = parts(bridge(LEAST_SQUARES, source, dest))
    assert {key: part[key] for key in ("prefix_tokens", "fc_format") if key in part} == expected


@pytest.mark.parametrize(
    ("source", "dest", "expected"),
    [
        (256, 24, [(256, 128), (128, 64), (64, 24)]),
        (256, 100, [(256, 128), (128, 100), (100, 100)]),
        (24, 100, [(24, 48), (48, 96), (96, 100)]),
        (24, 40, [(24, 40), (40, 40), (40, 40)]),
        (24, 24, [(24, 24)] * 3),
    ],
)
def test_channels_halve_or_double_but_never_past_the_destinations(source, dest, expected):
    found = bridge("downsample_then_linear", Format("img", source, (56, 56)), Format("img", dest, (7, 7)), 3)
    assert channels(found) == expected


@pytest.mark.parametrize("name", RESIZING)
def test_resizing_comes_before_the_adapter(name):
    assert sizes(bridge(name, IMG_56, IMG_7, 3)) == [(28, 28), (14, 14), (7, 7)]
    assert sizes(bridge(name, IMG_56, IMG_7, 1)) == [(7, 7)]
    assert bridge(name, IMG_56, IMG_7, 3).dest_format == IMG_7


def test_resizing_comes_after_the_adapter_in_post_downsample():
    found = bridge("linear_post_downsample", IMG_56, IMG_7, 3)
    assert sizes(found) == [(56, 56), (28, 28), (14, 14)]
    assert found.dest_format == IMG_7


def test_odd_sizes_are_halved_upwards_and_never_past_the_destinations():
    assert sizes(bridge("affine", Format("img", 8, (15, 13)), Format("img", 8, (4, 4)), 2)) == [(8, 7), (4, 4)]
    assert sizes(bridge("affine", Format("img", 8, (8, 8)), Format("img", 8, (7, 7)), 3)) == [(7, 7)] * 3
    assert sizes(bridge("affine", Format("img", 8, (7, 7)), Format("img", 8, (28, 28)), 2)) == [(7, 7), (28, 28)]


@pytest.mark.parametrize("name", STRIDED)
def test_the_stride_does_the_downsampling(name):
    found = bridge(name, IMG_56, IMG_7, 3)
    assert [part["stride"] for part in parts(found)] == [2, 2, 2]
    assert sizes(found) == [(56, 56), (28, 28), (14, 14)]


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize(
    ("source", "dest", "downsamples", "start", "strides"),
    [
        (IMG_56, Format("img", 64, (56, 56)), 0, 56, [1]),
        (IMG_56, BERT_14, 0, 56, [4]),  # a row of one resolution: one step does it all
        (IMG_56, BERT_14, 2, 56, [2, 2]),
        (IMG_56, BERT_14, 3, 56, [2, 2, 1]),
        (IMG_56, IMG_7, 2, 56, [4, 2]),
        (IMG_56, IMG_7, 1, 56, [8]),
        (BERT_14, IMG_56, 2, 56, [1, 1]),  # upwards: resized, then convolved at the new size
        (BERT_14, IMG_7, 3, 14, [2, 1, 1]),
        (Format("img", 8, (15, 15)), Format("img", 8, (8, 8)), 1, 15, [2]),
        (Format("img", 8, (14, 14)), Format("img", 8, (8, 8)), 1, 8, [1]),  # a stride would shrink it too far
        (Format("img", 8, (30, 30)), Format("img", 8, (7, 7)), 2, 28, [2, 2]),  # not 15, 8, and then resized
    ],
)
def test_strides_make_the_destinations_size(name, source, dest, downsamples, start, strides):
    found = bridge(name, source, dest, downsamples)
    assert [part["stride"] for part in parts(found)] == strides
    assert sizes(found)[0] == (start, start)
    assert _built(found, source).out_format.spatial == dest.spatial


@pytest.mark.parametrize("name", AT_SOURCE_SIZE)
@pytest.mark.parametrize(
    ("source", "dest", "runs_at"),
    [
        (IMG_56, IMG_7, Format("img", 256, (56, 56))),
        (IMG_56, BHWC_14, Format("bhwc", 96, (56, 56))),
        (IMG_56, BERT_14, Format("bert", 48, 56 * 56, 1)),
        (BERT_14, IMG_7, Format("img", 256, (14, 14))),  # the spatial side of 196 tokens
        (TOKEN_14, BHWC_14, BHWC_14),
    ],
)
def test_without_downsampling_the_destination_runs_at_the_sources_size(name, source, dest, runs_at):
    found = bridge(name, source, dest, 2)
    assert found.dest_format == runs_at
    assert set(sizes(found)) == {source.spatial}


@pytest.mark.parametrize("dest", [IMG_7, BHWC_14], ids=str)
def test_a_class_token_doubles_the_channels_towards_an_image_only(dest):
    name = "downsample_then_linear"
    assert channels(bridge(name, BERT_14, dest, 1)) == [(96, dest.channels)]
    assert channels(bridge(name, TOKEN_14, dest, 1)) == [(48, dest.channels)]
    assert channels(bridge(name, BERT_14, BERT_7, 2)) == [(48, 40), (40, 40)]
    assert channels(bridge(name, dest, BERT_14, 0)) == [(dest.channels, 48)]


@pytest.mark.parametrize(("source", "dest"), [(BERT_14, BERT_7), (BERT_14, TOKEN_14), (TOKEN_14, BERT_14)])
def test_between_sequences_layers_are_fully_connected(source, dest):
    for name in ("downsample_then_linear", "linear_no_downsample", "linear_post_downsample", "affine"):
        (part,) = parts(bridge(name, source, dest))
        assert part["num_fc"] == 1
        assert "num_conv" not in part
        assert part["fc_format"] == part["in_format"][0] == dest.kind
    block = bridge("downsample_then_block", source, dest)
    assert kinds(block) == ["VisionTransformerBlock"]
    assert parts(block)[0]["embed_dim"] == dest.channels
    assert dest.channels % parts(block)[0]["num_heads"] == 0


def test_sequences_are_resized_as_the_square_images_that_they_are():
    found = bridge("downsample_then_linear", BERT_14, BERT_7, 1)
    assert parts(found)[0]["in_format"] == ["bert", [48, 49]]


@pytest.mark.parametrize("name", [*CONVOLUTIONS, *BOTTLENECKS])
@pytest.mark.parametrize("dest", [BERT_14, TOKEN_14], ids=str)
def test_convolutions_and_bottlenecks_decline_gaps_between_sequences(name, dest):
    with pytest.raises(Declined, match="between two sequences"):
        bridge(name, BERT_14, dest)


def test_a_stride_between_sequences_is_declined():
    with pytest.raises(Declined, match="stride"):
        bridge("block_with_downsample", BERT_14, BERT_7, 1)
    assert kinds(bridge("block_with_downsample", BERT_14, BERT_14)) == ["VisionTransformerBlock"]


@pytest.mark.parametrize(("source", "dest"), [(Format("vector", 8), IMG_7), (IMG_7, Format("vector", 8))])
def test_vectors_are_declined(source, dest):
    for name in set(STITCHERS) - {"finetune"}:
        with pytest.raises(Declined, match=re.escape(f"{source} to {dest}")):
            bridge(name, source, dest)


def test_tokens_that_are_no_square_are_declined():
    with pytest.raises(Declined):
        bridge("downsample_then_linear", Format("token", 8, 50), IMG_7)


@pytest.mark.parametrize(
    ("name", "kind", "arguments"),
    [
        ("downsample_then_linear", "SimpleAdapter", {"num_conv": 1, "kernel_size": 1, "nonlinearity": False}),
        ("downsample_then_linear_relu", "SimpleAdapter", {"num_conv": 1, "kernel_size": 1, "nonlinearity": True}),
        ("downsample_then_3x3conv", "SimpleAdapter", {"num_conv": 1, "kernel_size": 3, "stride": 1}),
        ("downsample_then_bottleneck", "ResNetBottleneck", {"stride": 1}),
        ("downsample_then_block", "ResNetBasicBlock", {"stride": 1}),
        ("conv3x3_with_downsample", "SimpleAdapter", {"num_conv": 1, "kernel_size": 3, "stride": 2}),
        ("bottleneck_with_downsample", "ResNetBottleneck", {"stride": 2}),
        ("block_with_downsample", "ResNetBasicBlock", {"stride": 2}),
        ("linear_no_downsample", "SimpleAdapter", {"num_conv": 1, "kernel_size": 1, "nonlinearity": False}),
        ("linear_relu_no_downsample", "SimpleAdapter", {"num_conv": 1, "kernel_size": 1, "nonlinearity": True}),
        ("bottleneck_no_downsample", "ResNetBottleneck", {"stride": 1}),
        ("block_no_downsample", "ResNetBasicBlock", {"stride": 1}),
        ("linear_post_downsample", "SimpleAdapter", {"num_conv": 1, "kernel_size": 1, "nonlinearity": False}),
        (
            "affine",
            "SimpleAdapter",
            {"kernel_size": 1, "nonlinearity": False, "leading_norm": False, "trailing_norm": False},
        ),
    ],
)
def test_each_step_is_the_documented_layer(name, kind, arguments):
    found = bridge(name, Format("img", 32, (14, 14)), IMG_7, 1)
    assert kinds(found) == [kind]
    assert arguments.items() <= parts(found)[0].items()


def _modules(name: str, source: Format, dest: Format) -> list[torch.nn.Module]:
    network = _built(bridge(name, source, dest), source)
    return [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]


@pytest.mark.parametrize(("source", "dest"), [(IMG_7, IMG_7), (BERT_14, BERT_14)], ids=str)
def test_affine_is_one_layer_with_a_bias_and_no_norm(source, dest):
    (layer,) = _modules("affine", source, dest)
    assert type(layer) is (torch.nn.Conv2d if source.kind == "img" else torch.nn.Linear)
    assert layer.bias is not None


def test_linear_is_norm_layer_norm():
    assert [type(m).__name__ for m in _modules("downsample_then_linear", IMG_7, IMG_7)] == [
        "BatchNorm2d", "Conv2d", "BatchNorm2d",
    ]  # fmt: skip
    assert [type(m).__name__ for m in _modules("downsample_then_linear", BERT_14, BERT_14)] == [
        "LayerNorm", "Linear", "LayerNorm",
    ]  # fmt: skip


def _built(found: AdapterPlan, source: Format):
    for part in found.parts:
        for key in ("init", "prefix_tokens"):  # there is no destination here to fit to
            next(iter(part.values())).pop(key, None)
    job = Job.model_validate({"assembly": found.parts, "train_config": {"dataset": "digits"}})
    return build_network(job.network, source, BuildOptions(meta=True))


FORMATS = [IMG_56, IMG_7, BHWC_14, BERT_14, BERT_7, TOKEN_14]


BRIDGES = [
    (source, dest, downsamples)
    for source, dest in itertools.product(FORMATS, repeat=2)
    for downsamples in ((0, 2) if source in (IMG_56, BERT_14) else (0,))
]


@pytest.mark.parametrize("name", [name for name in STITCHERS if name != "finetune"])
def test_every_bridge_runs_and_gives_the_destinations_channels(name):
    declined = 0
    for source, dest, downsamples in BRIDGES:
        try:
            found = bridge(name, source, dest, downsamples)
        except Declined:
            declined += 1
            continue
        network = _built(found, source)
        out = network(torch.zeros(source.shape(2), device="meta"))
        assert tuple(out.shape) == network.out_format.shape(2)
        assert network.out_format.channels == dest.channels
        if name in STRIDED and (source, dest, downsamples) == (IMG_56, IMG_7, 2):
            assert network.out_format.spatial == (7, 7)  # strides of four and two
    sequences = sum({source.kind, dest.kind} <= {"bert", "token"} for source, dest, _ in BRIDGES)
    assert declined == (sequences if name in (*CONVOLUTIONS, *BOTTLENECKS) else 5 if name in STRIDED else 0)


def test_an_unknown_stitcher_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean 'affine'"):
        _ = STITCHERS["afine"]
