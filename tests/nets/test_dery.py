"""The parts of Deep Model Reassembly that older configs name."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from building import build
from torch import nn

from stitching.config.errors import UserError
from stitching.nets.parts.dery import FUNCTIONS, Function

SHAPES = {"cnn": (2, 4, 8, 8), "vit": (2, 64, 4)}


@pytest.mark.parametrize("layers", [{"num_conv": 1}, {"num_conv": 2}, {"num_fc": 1}, {"num_fc": 2}])
@pytest.mark.parametrize("mode", ["cnn2cnn", "cnn2vit", "vit2cnn", "vit2vit"])
def test_adapter_shapes(mode, layers):
    net = build("DeRyAdapter", 4, output_channel=6, mode=mode, **layers)
    arriving, leaving = mode.split("2")
    expected = (2, 6, 8, 8) if leaving == "cnn" else (2, 64, 6)
    assert net(torch.randn(SHAPES[arriving])).shape == expected
    assert net.to("meta")(torch.empty(SHAPES[arriving], device="meta")).shape == expected
    kinds = {"cnn": "img", "vit": "token"}
    assert net.out_kind == kinds[leaving]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ["BatchNorm2d", "Conv2d"]),  # one convolution by default
        ({"num_conv": 2}, ["BatchNorm2d", "Conv2d", "Conv2d"]),
        ({"num_conv": 0, "num_fc": 2}, ["LayerNorm", "Linear", "Linear"]),
        ({"num_fc": 1}, ["LayerNorm", "Linear"]),
        ({"num_conv": 2, "num_fc": 1, "mode": "cnn2vit"}, ["BatchNorm2d", "Conv2d", "Conv2d", "Linear"]),
        ({"num_conv": 0, "output_channel": 4, "mode": "vit2vit"}, ["LayerNorm"]),
    ],
    ids=str,
)
def test_adapter_is_a_norm_then_layers_then_one_nonlinearity(arguments, expected):
    net = build("DeRyAdapter", 4, **{"output_channel": 6} | arguments)
    assert [type(layer).__name__ for layer in net.adapter] == [*expected, "LeakyReLU"]
    assert [name for name in net.state_dict() if name.endswith("bias")] == ["adapter.0.bias"]  # the norm's


def test_strides_of_the_adapter():
    net = build("DeRyAdapter", 4, output_channel=6, num_conv=2, stride=2, mode="cnn2vit")
    first, second = (layer for layer in net.adapter if isinstance(layer, nn.Conv2d))
    assert (first.kernel_size, first.stride, first.padding) == ((2, 2), (2, 2), (0, 0))
    assert (second.kernel_size, second.stride) == ((1, 1), (1, 1))
    assert net(torch.randn(SHAPES["cnn"])).shape == (2, 16, 6)


@pytest.mark.parametrize("layers", [{"num_conv": 1}, {"num_fc": 1}])
def test_adapter_keeps_positions_in_place(layers):
    """The same weights give the same values wherever a position is laid out."""
    nets = {mode: build("DeRyAdapter", 4, output_channel=6, mode=mode, **layers).eval() for mode in ("cnn2cnn",)}
    for mode in ("cnn2vit", "vit2cnn", "vit2vit"):
        nets[mode] = build("DeRyAdapter", 4, output_channel=6, mode=mode, **layers).eval()
        nets[mode].load_state_dict(nets["cnn2cnn"].state_dict())
    x = torch.randn(SHAPES["cnn"])
    tokens = x.flatten(2).transpose(1, 2)
    expected = nets["cnn2cnn"](x)
    torch.testing.assert_close(nets["vit2cnn"](tokens), expected)
    for mode, given in (("cnn2vit", x), ("vit2vit", tokens)):
        torch.testing.assert_close(nets[mode](given), expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_conv": 0}, "no layer maps 4 channels to 6"),
        ({"num_fc": 1, "stride": 2}, "needs a convolution"),
    ],
)
def test_adapter_errors(arguments, words):
    with pytest.raises(UserError, match=words):
        build("DeRyAdapter", 4, output_channel=6, **arguments)


def test_tokens_that_are_no_map():
    with pytest.raises(ValueError, match="8 tokens are no square map"):
        build("DeRyAdapter", 4, output_channel=4, num_conv=1, mode="vit2vit")(torch.randn(2, 8, 4))


def test_base_block():
    net = build("BaseBlock", 3, out_channels=6)
    assert [type(layer).__name__ for layer in net.layers] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert (net.layers[0].kernel_size, net.layers[0].stride) == ((7, 7), (2, 2))
    out = net(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 6, 16, 16)
    assert out.min() >= 0
    assert build("BaseBlock", 3, out_channels=6, stride=1, kernel_size=3)(torch.randn(2, 3, 9, 9)).shape == (2, 6, 4, 4)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    net = Function(name)
    assert list(net.parameters()) == []
    for shape in ((2, 3, 4, 4), (2, 16, 3), (2, 3)):
        out = net(torch.randn(shape))
        assert out.shape == shape if net.out_kind == "same" else out.dim() == 2


def test_function_values():
    x = torch.randn(2, 3, 4, 4)
    assert Function("identity")(x) is x
    assert torch.equal(Function("relu")(x), x.clamp(min=0))
    torch.testing.assert_close(Function("global_avg_pool")(x), x.mean((2, 3)))
    torch.testing.assert_close(Function("global_avg_pool")(x.flatten(2).transpose(1, 2)), x.mean((2, 3)))


def test_function_can_be_copied_and_pickled():
    net = pickle.loads(pickle.dumps(copy.deepcopy(Function("identity"))))
    assert net.name == "identity"


@pytest.mark.parametrize("name", ["__import__('os')", "gelo"])
def test_functions_are_looked_up_never_evaluated(name):
    with pytest.raises(UserError, match="there is no function"):
        Function(name)
