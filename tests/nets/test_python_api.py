"""`stitching.cut_points`, `cut` and `stitch`: any network from Python, with the words of a user's mistake."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import nn

import stitching
from stitching.nets import python_api


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.stem(x)))


SHAPE = (1, 16, 16)
X = torch.rand(2, *SHAPE)


def pieces(net: Net, at: str = "pool") -> tuple[nn.Module, nn.Module]:
    points = [point.name for point in stitching.cut_points(net, SHAPE)]
    after = {"pool": "head"}[at]
    assert at in points
    return (
        stitching.cut(net, output=at, image_shape=SHAPE),
        stitching.cut(net, input=after, image_shape=SHAPE),
    )


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(python_api).failed == 0


def test_front_and_back_without_an_adapter_are_the_model() -> None:
    net = Net(8).eval()
    front, back = pieces(net)
    assert torch.equal(back(front(X)), net(X))
    assert torch.equal(stitching.stitch([front, back]).eval()(X), net(X))
    front.get_parameter("stem.0.weight").data.zero_()
    assert net.stem[0].weight.any(), "it shares nothing with the model"


class TwoPaths(nn.Module):
    """Two values cross in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = self.first(x)
        return (self.last(self.second(kept)) + kept).mean((2, 3))


def test_a_cut_may_carry_a_tuple() -> None:
    model = TwoPaths()
    ends = {"image_shape": (3, 8, 8), "as_tuple": True}
    front, back = stitching.cut(model, output="second", **ends), stitching.cut(model, input="last", **ends)
    images = torch.randn(2, 3, 8, 8)
    assert len(front(images)) == 2
    assert torch.equal(back(front(images)), model(images))
    with pytest.raises(stitching.UserError, match="2 values cross there"):
        stitching.cut(model, output="second", image_shape=(3, 8, 8))


def test_cut_pieces_are_frozen_and_own_modules_are_trained() -> None:
    (front, _), (_, back) = pieces(Net(8)), pieces(Net(12))
    network = stitching.stitch([front, nn.Conv2d(8, 12, 1), back])
    network(X).sum().backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == {
        "parts.1.net.weight", "parts.1.net.bias",
    }  # fmt: skip
    assert not any(module.training for part in (0, 2) for module in network.pieces[part].net.modules())
    assert network.pieces[1].training


@pytest.mark.parametrize(
    "adapter",
    [
        {"SimpleAdapter": {"num_conv": 1, "out_channels": 12}},
        "SimpleAdapter: {num_conv: 1, out_channels: 12}",
        "{SimpleAdapter: {num_fc: 1, fc_format: token, out_channels: 12}}",
    ],
)
def test_parts_as_configs_have_them(adapter) -> None:
    (front, _), (_, back) = pieces(Net(8)), pieces(Net(12))
    networks = [stitching.stitch([front, adapter, back], seed=seed).eval() for seed in (1, 1, 2)]
    first, again, other = (network(X) for network in networks)
    assert first.shape == (2, 10)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_formats_are_converted_and_models_can_be_names() -> None:
    front = stitching.cut("timm/vit_tiny_patch16_224", output="blocks.0", pretrained=False)
    assert str(front.in_format) in repr(front)
    back = stitching.cut(Net(384), input="head", image_shape=(1, 16, 16))
    network = stitching.stitch([front, back]).eval()
    assert network(torch.rand(1, 3, 224, 224)).shape == (1, 10), "the class token is spread as further channels"
    whole = stitching.stitch(["local/smallnet"], image_shape=(3, 32, 32))
    assert whole.out_format.channels == 10
    assert not any(parameter.requires_grad for parameter in whole.parameters())


FRONT, BACK = pieces(Net(8))


@pytest.mark.parametrize(
    ("attempt", "words"),
    [
        (lambda: stitching.cut(Net(8), output="pol", image_shape=SHAPE), "did you mean 'pool'"),
        (lambda: stitching.cut(Net(8), input="head", output="stem", image_shape=SHAPE), "does not come after"),
        (lambda: stitching.cut_points(Net(8), (1, 16)), r"image_shape is \(1, 16\)"),
        (lambda: stitching.cut_points(Net(8), (3, 16, 16)), "Net cannot take 3x16x16 images"),
        (lambda: stitching.cut_points("timm/resnt18"), "did you mean"),
        (lambda: stitching.stitch([FRONT, nn.Conv2d(4, 8, 1), BACK]), r"parts\.1: the part cannot take img 8x8x8"),
        (lambda: stitching.stitch([FRONT, {"SimpleAdaptr": {}}, BACK]), "did you mean 'SimpleAdapter'"),
        (lambda: stitching.stitch([FRONT, "no part", BACK]), r"parts\.1: .*a part is one class name"),
        (
            lambda: stitching.stitch([FRONT, {"SimpleAdapter": {"num_conv": 1, "init": "least_squares"}}]),
            "fits no adapters",
        ),
        (lambda: stitching.stitch([nn.Conv2d(1, 4, 3)]), "image_shape"),
        (lambda: stitching.stitch(FRONT), "allowed: a list of modules"),
        (lambda: stitching.stitch([]), "allowed: a list of modules"),
    ],
)
def test_mistakes_are_told(attempt, words: str) -> None:
    with pytest.raises(stitching.UserError, match=words):
        attempt()
