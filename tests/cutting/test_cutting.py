"""Promise 1: cut and rejoin is exact. And what a piece is."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stitching.config.errors import UserError
from stitching.cutting.cut_points import TracedModel, cut_points, extract, resolve, trace
from stitching.models.building import build, input_shape
from stitching.models.spec import ModelSpec

Shape = tuple[int, int, int]

# title, arguments, side of the images (None: what the model is for), at least so many cut points
FAMILIES: list[tuple[str, dict, int | None, int]] = [
    ("timm/resnet18", {}, 32, 24),
    ("timm/vit_tiny_patch16_224", {"img_size": 32, "depth": 3}, None, 18),
    ("timm/deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 3}, None, 15),
    ("timm/beit_base_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 96, "num_heads": 3}, None, 14),
    ("timm/eva02_tiny_patch14_224", {"img_size": 28, "depth": 2}, None, 14),
    ("timm/vit_small_patch16_dinov3", {"depth": 2}, 32, 18),
    ("timm/vit_small_patch14_reg4_dinov2", {"img_size": 28, "depth": 2}, None, 14),
    ("timm/cait_xxs24_224", {"img_size": 32, "depth": 2}, None, 12),
    ("timm/xcit_nano_12_p16_224", {"depth": 2}, 32, 30),
    ("timm/swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": [1, 1, 2, 1]}, None, 45),
    ("torchvision/swin_t", {}, 32, 40),
    ("torchvision/vit_b_16", {"image_size": 32}, None, 30),
    ("timm/convnext_atto", {}, 32, 35),
    ("timm/poolformer_s12", {}, 32, 35),
    ("timm/pit_ti_224", {}, None, 38),
    ("timm/mixer_s32_224", {"img_size": 64}, None, 25),
    ("timm/resmlp_12_224", {"img_size": 32}, None, 30),
    ("timm/pvt_v2_b0", {}, 64, 48),
    ("timm/levit_128s", {"img_size": 64}, None, 40),
    ("timm/densenet121", {"block_config": [2, 2, 2, 2]}, 32, 18),
    ("timm/mobilenetv3_small_050", {}, 32, 35),
    ("timm/efficientnet_b0", {}, 32, 60),
    ("timm/regnety_002", {}, 32, 30),
    ("timm/repvgg_a0", {}, 32, 60),
    ("timm/ghostnet_050", {}, 32, 25),
    ("timm/mobilevit_xxs", {}, 64, 50),
    ("timm/edgenext_xx_small", {}, 64, 35),
    ("torchvision/googlenet", {}, 64, 25),
    ("torchvision/shufflenet_v2_x0_5", {}, 32, 35),
    ("torchvision/squeezenet1_1", {}, 64, 30),
    ("torchvision/mnasnet0_5", {}, 32, 60),
    ("local/smallnet", {"num_blocks": 3}, 8, 10),
]
MORE_FAMILIES: list[tuple[str, dict, int | None, int]] = [
    ("torchvision/inception_v3", {}, 299, 30),
    ("torchvision/alexnet", {}, 64, 20),
    ("torchvision/regnet_y_400mf", {}, 64, 30),
    ("torchvision/maxvit_t", {}, None, 120),
    ("torchvision/swin_v2_t", {}, 64, 40),
    ("timm/vgg11", {}, 32, 25),
    ("timm/maxvit_rmlp_pico_rw_256", {}, None, 80),
    ("timm/swinv2_tiny_window8_256", {"img_size": 64, "window_size": 2}, None, 35),
    ("timm/coat_tiny", {"img_size": 64}, None, 5),
    ("timm/gmlp_ti16_224", {"img_size": 64}, None, 35),
    ("timm/twins_svt_small", {"img_size": 64}, None, 80),
    ("timm/mvitv2_tiny", {"img_size": 64}, None, 30),
    ("timm/davit_tiny", {}, 64, 160),
    ("timm/gcvit_xxtiny", {}, None, 50),
    ("timm/hiera_tiny_224", {}, None, 30),
    ("timm/nest_tiny", {}, None, 50),
    ("timm/focalnet_tiny_srf", {}, 64, 45),
    ("timm/convit_tiny", {"img_size": 64}, None, 30),
    ("timm/volo_d1_224", {"img_size": 64}, None, 50),
    ("timm/efficientformer_l1", {}, None, 45),
    ("timm/fastvit_t8", {}, 64, 55),
    ("timm/tiny_vit_5m_224", {}, None, 50),
    ("timm/nextvit_small", {}, 64, 100),
    ("timm/dla34", {}, 64, 30),
    ("timm/hrnet_w18_small", {}, 64, 15),
    ("timm/res2net50_26w_4s", {}, 64, 35),
    ("timm/mambaout_femto", {}, 64, 40),
    ("timm/caformer_s18", {}, 64, 40),
    ("timm/dm_nfnet_f0", {}, 64, 25),
    ("timm/mobilenetv4_hybrid_medium", {}, 64, 70),
]


# Residual, sequence with a class token, windows, gates, dense connections, attention in convolutions, branches, plain.
CUT_ONE_BY_ONE = {
    "timm/resnet18", "timm/vit_tiny_patch16_224", "timm/swin_tiny_patch4_window7_224", "timm/convnext_atto",
    "timm/densenet121", "timm/levit_128s", "torchvision/googlenet", "local/smallnet",
}  # fmt: skip


def without_dropout(model: nn.Module) -> nn.Module:
    """`model` with all its dropout and stochastic depth at zero."""
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def main_output(output: object) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]  # type: ignore[index]


def run(model: nn.Module, x: Tensor, *, training: bool) -> Tensor:
    with torch.no_grad():
        return main_output(model.train(training)(x))


def traced_with_images(title: str, args: dict, side: int | None) -> tuple[TracedModel, Shape, Tensor]:
    spec = ModelSpec.parse(title, **args)
    shape = input_shape(spec) if side is None else (3, side, side)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    return trace(without_dropout(build(spec))), shape, images


def check_every_cut(title: str, args: dict, side: int | None, at_least: int, stride: int = 1) -> None:
    """At every `stride`-th cut point, what is before it and what is behind it make the model."""
    traced, shape, images = traced_with_images(title, args, side)
    points = cut_points(traced, shape)
    assert len(points) >= at_least
    assert (points[0].name, points[0].index) == (traced.input_name, 0)
    expected = {mode: run(copy.deepcopy(traced.model), images, training=mode) for mode in (False, True)}
    moved = copy.deepcopy(traced.model)
    run(moved, images, training=True)
    state = moved.state_dict()
    given = images.clone()
    for point in points[1:-1:stride]:
        front, back = extract(traced, points[0], point), extract(traced, point, points[-1])
        for mode in (False, True):  # eval first, as train moves the statistics
            inside = run(front, images, training=mode)
            kept = inside.clone()
            assert tuple(inside.shape[1:]) == point.shape
            assert torch.equal(run(back, inside, training=mode), expected[mode]), f"{point.name}, training={mode}"
            assert torch.equal(inside, kept), f"the value at {point.name} was overwritten"
        for piece in (front, back):
            assert all(torch.equal(value, state[key]) for key, value in piece.state_dict().items())
    assert torch.equal(images, given)


def check_all_cuts_at_once(title: str, args: dict, side: int | None, at_least: int) -> None:
    """The pieces between all neighbouring cut points, in a row, make the model: values, shapes and moved statistics."""
    traced, shape, images = traced_with_images(title, args, side)
    points = cut_points(traced, shape)
    assert len(points) >= at_least
    assert (points[0].name, points[0].index) == (traced.input_name, 0)
    pieces = [extract(traced, start, end) for start, end in pairwise(points)]
    for mode in (False, True):  # eval first, as train moves the statistics
        value = images
        for point, piece in zip(points[1:], pieces, strict=True):
            kept = value.clone()
            out = run(piece, value, training=mode)
            assert tuple(out.shape[1:]) == point.shape
            assert torch.equal(value, kept), f"the value before {point.name} was overwritten"
            value = out
        assert torch.equal(value, run(traced.model, images, training=mode))
    state = traced.model.state_dict()
    for piece in pieces:
        assert all(torch.equal(value, state[key]) for key, value in piece.state_dict().items())


@pytest.mark.parametrize(("title", "args", "side", "at_least"), FAMILIES, ids=[family[0] for family in FAMILIES])
def test_cut_and_rejoin_is_exact(title: str, args: dict, side: int | None, at_least: int) -> None:
    """Cut at all places at once; one by one at some, in a few families, as that takes the square of their number."""
    check_all_cuts_at_once(title, args, side, at_least)
    if title in CUT_ONE_BY_ONE:
        check_every_cut(title, args, side, at_least, stride=max(1, at_least // 4))


@pytest.mark.slow
@pytest.mark.parametrize(("title", "args", "side", "at_least"), FAMILIES, ids=[family[0] for family in FAMILIES])
def test_every_single_cut_is_exact(title: str, args: dict, side: int | None, at_least: int) -> None:
    check_every_cut(title, args, side, at_least)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "args", "side", "at_least"), MORE_FAMILIES, ids=[family[0] for family in MORE_FAMILIES]
)
def test_cut_and_rejoin_is_exact_in_more_families(title: str, args: dict, side: int | None, at_least: int) -> None:
    """Cut at all places at once; one by one at a few."""
    check_every_cut(title, args, side, at_least, stride=at_least // 2)
    check_all_cuts_at_once(title, args, side, at_least)


def test_stochastic_depth_draws_what_the_model_draws() -> None:
    """Its mask is made by operations in place whose results nothing uses."""
    spec = ModelSpec.parse("timm/swin_tiny_patch4_window7_224", img_size=32, window_size=1, drop_path_rate=0.5)
    model = build(spec)
    cut = trace(model)
    points = cut_points(cut)
    whole = extract(cut, points[0], points[-1])
    images = torch.randn(4, 3, 32, 32)
    torch.manual_seed(7)
    expected = run(model, images, training=True)
    torch.manual_seed(7)
    assert torch.equal(run(whole, images, training=True), expected)
    torch.manual_seed(8)
    assert not torch.equal(run(whole, images, training=True), expected)


class InPlace(nn.Module):
    """Overwrites tensors in every way that can be traced, and uses them afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = nn.ReLU(inplace=True)
        self.tail = nn.Conv2d(4, 2, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)  # type: ignore[operator]
        x = self.conv(x)
        self.act(x)
        x = x - 0.1
        F.relu(x, inplace=True)
        x = x - 0.1
        torch.relu_(x)
        x.mul_(2).sub_(0.1)
        x += 1
        return self.tail(x).mean((2, 3))


def test_nothing_is_overwritten_but_what_was_overwritten_counts() -> None:
    model = InPlace()
    cut = trace(model)
    points = cut_points(cut, (3, 8, 8))
    images = torch.randn(2, 3, 8, 8)
    expected = run(copy.deepcopy(model), images, training=False)
    assert len(points) > 9
    for point in points[1:-1]:
        front, back = extract(cut, points[0], point), extract(cut, point, points[-1])
        inside = run(front, images, training=False)
        kept = inside.clone()
        assert torch.equal(run(back, inside, training=False), expected), point.name
        assert torch.equal(inside, kept), point.name
    whole = extract(cut, points[0], points[-1])
    run(whole, images, training=False)
    assert whole.state_dict()["calls"] == 1
    assert model.calls == 0
    assert model.act.inplace


def test_pieces_share_nothing_with_the_model_and_hold_everything_once() -> None:
    cut, _, _ = traced_with_images("timm/vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, None)
    model = cut.model
    front = extract(cut, resolve(cut, None, "input"), resolve(cut, "blocks.0"))
    back = extract(cut, resolve(cut, "blocks.1", "input"), resolve(cut, None))
    own = {p.data_ptr() for p in model.parameters()}
    for piece in (front, back):
        assert not own & {p.data_ptr() for p in piece.parameters()}
        assert len(list(piece.parameters())) == len({id(p) for p in piece.parameters()})
    keys = [*front.state_dict(), *back.state_dict()]
    assert sorted(keys) == sorted(model.state_dict())
    assert {"cls_token", "pos_embed", "blocks.0.attn.qkv.weight"} <= set(front.state_dict())
    with torch.no_grad():
        for parameter in front.parameters():
            parameter.zero_()
    assert all(parameter.abs().sum() > 0 for name, parameter in model.named_parameters() if name.endswith("qkv.weight"))


class SkipsInTraining(nn.Module):
    """What is the only value in eval mode is not in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.one(x))
        return (y + x if self.training else y).mean((2, 3))


def test_a_cut_point_is_one_in_both_modes() -> None:
    cut = trace(SkipsInTraining())
    assert [point.name for point in cut_points(cut, (3, 4, 4))] == ["x", "mean"]
    with pytest.raises(UserError, match=r"'one' in SkipsInTraining is no cut point: one crosses.*in train mode"):
        resolve(cut, "one", input_shape=(3, 4, 4))


class Tied(nn.Module):
    """One weight under two names, and a buffer that is no part of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("shift", torch.ones(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.mean((2, 3))) + self.shift) @ self.first.weight


def test_tied_weights_stay_tied_and_passing_buffers_passing() -> None:
    cut = trace(Tied())
    whole = extract(cut, cut_points(cut, (4, 2, 2))[0], cut_points(cut, (4, 2, 2))[-1])
    assert whole.first.weight is whole.second.weight
    assert "shift" not in whole.state_dict()
    assert "shift" in dict(whole.named_buffers())


@pytest.mark.parametrize(
    ("title", "args"),
    [
        ("timm/resnet18", {}),
        ("timm/swin_tiny_patch4_window7_224", {"img_size": 64, "window_size": 2, "depths": [1, 2]}),
    ],
    ids=["resnet", "swin"],
)
def test_pieces_can_be_copied_pickled_and_compiled(title: str, args: dict) -> None:
    cut, shape, images = traced_with_images(title, args, 64)
    points = cut_points(cut, shape)
    whole = extract(cut, points[0], points[-1])
    expected = run(whole, images, training=False)
    assert torch.equal(run(copy.deepcopy(whole), images, training=False), expected)
    again = pickle.loads(pickle.dumps(whole))
    assert torch.equal(run(again, images, training=False), expected)
    assert torch.equal(run(torch.compile(whole, backend="eager"), images, training=False), expected)


def test_a_piece_follows_its_input_to_another_device() -> None:
    """DINOv3 asks for the device of its weights; tracing saw the CPU."""
    cut, shape, images = traced_with_images("timm/vit_small_patch16_dinov3", {"depth": 1}, 32)
    points = cut_points(cut, shape)
    whole = extract(cut, points[0], points[-1]).to("meta")
    with torch.device("meta"):
        assert whole(images.to("meta")).device.type == "meta"


def test_auxiliary_heads_are_left_out() -> None:
    cut = trace(build(ModelSpec.parse("torchvision/googlenet")))
    assert not any(name.startswith("aux") for name in cut.graphs[True].names.values())
    points = cut_points(cut, (3, 64, 64))
    assert not any(key.startswith("aux") for key in extract(cut, points[0], points[-1]).state_dict())


def test_parameters_have_the_same_order_in_every_process():
    """A checkpoint's optimizer and the processes that train together know parameters by their order alone."""
    code = """
from stitching.cutting.cut_points import extract, resolve
from stitching.models.spec import ModelSpec
from stitching.models.traced_models import traced_model
traced = traced_model(ModelSpec("timm", "resnet18"), 0)
cut = extract(traced, resolve(traced, None, "input"), resolve(traced, "layer2", "output"))
names = [name for name, _ in cut.named_parameters()]
"""
    environment = {**os.environ, "PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"}  # not ours
    command = [sys.executable, "-c", f"{code}print(names)"]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    here: dict[str, list[str]] = {}
    exec(code, here)
    assert other == f"{here['names']}\n"
