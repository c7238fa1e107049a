"""Adapters: their layers, their start as the identity, and what they refuse."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from building import build
from pydantic import ValidationError
from torch import nn

from stitching.config.errors import UserError
from stitching.nets.parts import BuildOptions
from stitching.nets.parts.adapters import SimpleAdapter


def names(adapter: SimpleAdapter) -> list[str]:
    return [type(layer).__name__ for layer in adapter.layers]


def test_layers_of_convolutions():
    adapter = build("SimpleAdapter", in_channels=4, out_channels=8, hid_channels=6, num_conv=2, stride=2)
    assert names(adapter) == ["BatchNorm2d", *["Conv2d", "BatchNorm2d", "LeakyReLU"] * 2]
    first, second = (layer for layer in adapter.layers if isinstance(layer, nn.Conv2d))
    assert (first.in_channels, first.out_channels, first.stride, first.padding) == (4, 6, (2, 2), (1, 1))
    assert (second.in_channels, second.out_channels, second.stride) == (6, 8, (1, 1))
    assert [layer.negative_slope for layer in adapter.layers if isinstance(layer, nn.LeakyReLU)] == [0.1, 0.1]
    assert adapter(torch.randn(2, 4, 8, 8)).shape == (2, 8, 4, 4)
    assert adapter.out_kind == "img"


def test_layers_of_linear_maps():
    adapter = build("SimpleAdapter", in_channels=4, out_channels=8, num_fc=2, nonlinearity=False)
    assert names(adapter) == ["LayerNorm", *["Linear", "LayerNorm"] * 2]
    assert adapter.layers[1].out_features == 8  # hid_channels are the out_channels if not said


@pytest.mark.parametrize(
    ("leading", "trailing", "nonlinear", "expected"),
    [
        (True, False, False, ["BatchNorm2d", "Conv2d", "BatchNorm2d", "Conv2d"]),
        (False, True, False, ["Conv2d", "BatchNorm2d", "Conv2d", "BatchNorm2d"]),
        (False, False, True, ["Conv2d", "BatchNorm2d", "LeakyReLU", "Conv2d", "LeakyReLU"]),
    ],
)
def test_norms_can_be_turned_off(leading, trailing, nonlinear, expected):
    adapter = build(
        "SimpleAdapter",
        in_channels=4,
        out_channels=4,
        num_conv=2,
        leading_norm=leading,
        trailing_norm=trailing,
        nonlinearity=nonlinear,
    )
    assert names(adapter) == expected


@pytest.mark.parametrize("counted", ["num_conv", "num_fc"])
def test_affine_is_one_layer_with_bias(counted):
    adapter = build(
        "SimpleAdapter",
        in_channels=4,
        out_channels=8,
        kernel_size=1,
        leading_norm=False,
        trailing_norm=False,
        nonlinearity=False,
        **{counted: 1},
    )
    (layer,) = adapter.layers
    assert layer.bias is not None
    assert [parameter.numel() for parameter in adapter.parameters()] == [32, 8]


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_default_padding_keeps_the_size(kernel):
    adapter = build("SimpleAdapter", in_channels=2, out_channels=3, num_conv=1, kernel_size=kernel)
    assert adapter(torch.randn(2, 2, 7, 9)).shape == (2, 3, 7, 9)
    wide = build("SimpleAdapter", in_channels=2, out_channels=3, num_conv=1, kernel_size=kernel, padding=kernel)
    assert wide(torch.randn(2, 2, 7, 9)).shape == (2, 3, 8 + kernel, 10 + kernel)


@pytest.mark.parametrize(
    ("kind", "shape"), [("token", (2, 9, 4)), ("bert", (2, 10, 4)), ("bhwc", (2, 3, 3, 4)), ("vector", (2, 4))]
)
def test_linear_maps_work_on_the_last_dimension(kind, shape):
    adapter = build("SimpleAdapter", in_channels=4, out_channels=8, num_fc=1, fc_format=kind)
    assert adapter.out_kind == kind
    assert adapter(torch.randn(shape)).shape == (*shape[:-1], 8)
    assert adapter.to("meta")(torch.empty(shape, device="meta")).shape == (*shape[:-1], 8)


def test_convolutions_on_meta():
    with torch.device("meta"):
        adapter = build(
            "SimpleAdapter", in_channels=4, out_channels=4, num_conv=1, nonlinearity=False, init_identity=True
        )
        assert adapter(torch.empty(1, 4, 5, 5)).shape == (1, 4, 5, 5)


# Start as the identity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trailing", [True, False])
@pytest.mark.parametrize("leading", [True, False])
@pytest.mark.parametrize(("number", "kernel", "hidden"), [(1, 1, None), (1, 3, None), (3, 3, None), (2, 5, 50)])
def test_convolutions_start_as_the_identity(number, kernel, hidden, leading, trailing, dtype):
    adapter = build(
        "SimpleAdapter",
        in_channels=32,
        out_channels=32,
        hid_channels=hidden,
        num_conv=number,
        kernel_size=kernel,
        leading_norm=leading,
        trailing_norm=trailing,
        nonlinearity=False,
        init_identity=True,
    )
    adapter.to(dtype).eval()
    x = (torch.randn(4, 32, 14, 14) * torch.logspace(-3, 3, 32)[:, None, None]).to(dtype)
    assert torch.equal(adapter(x), x)


@pytest.mark.parametrize("kind", ["token", "bert", "bhwc", "vector"])
def test_linear_map_starts_as_the_identity(kind):
    adapter = build(
        "SimpleAdapter",
        in_channels=64,
        out_channels=64,
        num_fc=1,
        fc_format=kind,
        leading_norm=False,
        trailing_norm=False,
        nonlinearity=False,
        init_identity=True,
    )
    x = torch.randn(2, 10, 64) * 100
    assert torch.equal(adapter.eval()(x), x)


def test_identity_adapter_can_be_trained():
    adapter = build("SimpleAdapter", in_channels=4, out_channels=4, num_conv=1, nonlinearity=False, init_identity=True)
    adapter.train()(torch.randn(8, 4, 5, 5)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapter.parameters())


def test_without_init_identity_weights_are_random():
    torch.manual_seed(0)
    adapter = build("SimpleAdapter", in_channels=4, out_channels=4, num_conv=1, nonlinearity=False).eval()
    x = torch.randn(2, 4, 5, 5)
    assert not torch.allclose(adapter(x), x, atol=0.1)


CONV = {"in_channels": 4, "out_channels": 4, "num_conv": 1, "nonlinearity": False}
BARE = {"in_channels": 4, "out_channels": 4, "num_fc": 1, "nonlinearity": False, "leading_norm": False}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (CONV | {"num_conv": 2, "hid_channels": 3}, "hid_channels 3 are fewer"),
        (CONV | {"stride": 2}, "size of the map"),
        (CONV | {"kernel_size": 2}, "size of the map"),
        (CONV | {"padding": 0}, "size of the map"),
        (BARE, "trailing_norm: false"),
        (BARE | {"leading_norm": True, "trailing_norm": False}, "leading_norm: false"),
        (BARE | {"trailing_norm": False, "num_fc": 2}, "num_fc: 1"),
    ],
)
def test_what_cannot_be_the_identity_is_refused(arguments, words):
    build("SimpleAdapter", **arguments)
    with pytest.raises(UserError, match=words) as caught:
        build("SimpleAdapter", **arguments, init_identity=True)
    assert caught.value.path == ("init_identity",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "neither of num_conv and num_fc"),
        ({"num_conv": 1, "num_fc": 1}, "both of num_conv and num_fc"),
        ({"num_conv": 0}, "neither of num_conv and num_fc"),
        ({"num_fc": 1, "stride": 2}, "no stride"),
        ({"num_fc": 1, "fc_format": "img"}, "'token', 'bert', 'bhwc' or 'vector'"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises((UserError, ValidationError), match=words):
        build("SimpleAdapter", in_channels=4, out_channels=4, **arguments)


# The head


@pytest.mark.parametrize(("pooled", "features"), [(1, 4), (2, 16), ([2, 3], 24)])
def test_head(pooled, features):
    head = build("ClassifierHead", in_channels=4, num_classes=10, pooled_size=pooled)
    assert head.fc.in_features == features
    assert head(torch.randn(2, 4, 7, 9)).shape == (2, 10)
    assert head.out_kind == "vector"


def test_head_is_linear_in_the_mean():
    head = build("ClassifierHead", in_channels=4, num_classes=10)
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(head(x), head.fc(x.mean((2, 3))))
    assert head.fc.weight.abs().max() <= 1 / sqrt(4)


# ------------------------------------------------------------------------ what untrained weights start with

PUBLISHED = BuildOptions(adapter_init="published")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("SimpleAdapter", {"num_conv": 1}),
        ("SimpleAdapter", {"num_fc": 1}),
        ("ResNetBottleneck", {}),
        ("ResNetBasicBlock", {"init_identity": False}),
        ("DeRyAdapter", {}),
    ],
)
def test_adapters_start_as_published(name, arguments):
    """Kaiming normal by the fan out: the variance is 2 / (outputs x kernel positions)."""
    out = {"output_channel" if name == "DeRyAdapter" else "out_channels": 192}
    net = build(name, 64, options=PUBLISHED, **arguments, **out)
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    random = [layer for layer in layers if not (layer is layers[-1] and name == "ResNetBottleneck")]
    for layer in random:
        expected = sqrt(2 / (layer.weight[:, 0].numel()))
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert layer.weight.abs().max() > 3 * expected  # not uniform
    if name == "ResNetBottleneck":
        assert torch.equal(layers[-1].weight[:64, :, 0, 0], torch.eye(64))  # the shortcut copies


def test_an_adapter_that_is_the_identity_is_it_in_both_ways_to_start():
    norms = {"leading_norm": False, "trailing_norm": False, "nonlinearity": False}
    net = build("SimpleAdapter", 4, num_conv=1, init_identity=True, options=PUBLISHED, **norms)
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(net(x), x)
