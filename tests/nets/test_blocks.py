"""Blocks of the usual architectures and the project's own model: shapes, starts, errors."""

from __future__ import annotations

import pytest
import torch
from building import build, builder
from timm.models.vision_transformer import Block
from torch import fx, nn
from torchvision.models import swin_transformer

from stitching.config.errors import UserError
from stitching.config.job_config import Job
from stitching.config.parts import ModelFields
from stitching.cutting.formats import Format
from stitching.models.building import build_meta
from stitching.models.convnet import ConvNet
from stitching.models.smallnet import SmallNet
from stitching.models.spec import ModelSpec, published_as
from stitching.nets.build import BuildOptions, build_network
from stitching.nets.parts import PARTS

RESIDUAL = [builder("ResNetBasicBlock"), builder("ResNetBottleneck")]
NORMS = ["bn", "gn", "ln", "in"]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", RESIDUAL)
def test_residual_block_starts_as_the_identity(block, norm):
    x = torch.randn(4, 48, 7, 7) * 30
    for final_relu, expected in ((True, x.relu()), (False, x)):
        net = block(in_channels=48, out_channels=48, norm_type=norm, final_relu=final_relu)
        assert torch.equal(net.eval()(x), expected)
        assert torch.equal(net.train()(x), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("block", RESIDUAL)
def test_residual_block_without_identity(block, norm):
    torch.manual_seed(0)
    net = block(in_channels=16, out_channels=16, norm_type=norm, init_identity=False).eval()
    x = torch.randn(2, 16, 7, 7)
    assert not torch.allclose(net(x), x, atol=0.05)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("arriving", "leaving", "stride"), [(8, 12, 1), (12, 8, 1), (8, 8, 2), (8, 16, 2)])
@pytest.mark.parametrize("block", RESIDUAL)
def test_residual_block_copies_what_fits(block, arriving, leaving, stride, norm):
    net = block(in_channels=arriving, out_channels=leaving, stride=stride, norm_type=norm, final_relu=False).eval()
    x = torch.randn(2, arriving, 7, 9)
    out, common = net(x), min(arriving, leaving)
    copied = nn.functional.pad(x[:, :common, ::stride, ::stride], (0, 0, 0, 0, 0, leaving - common))
    torch.testing.assert_close(out, net.shortcut[1](copied))  # behind the copy is a norm
    if norm == "bn":
        torch.testing.assert_close(out, copied, rtol=1e-5, atol=1e-5)  # it divides by sqrt(1 + eps)
    assert net.to("meta")(x.to("meta")).shape == out.shape


@pytest.mark.parametrize("block", RESIDUAL)
def test_residual_block_ends_with_a_relu(block):
    x = torch.randn(2, 4, 7, 7)
    arguments = {"in_channels": 4, "out_channels": 8, "init_identity": False}
    assert (block(**arguments, final_relu=False)(x) < 0).any()
    assert (block(**arguments)(x) >= 0).all()


@pytest.mark.parametrize("block", RESIDUAL)
def test_where_the_shape_changes_the_shortcut_is_a_convolution_and_a_norm(block):
    assert isinstance(block(in_channels=8, out_channels=8).shortcut, nn.Identity)
    for arguments in ({"out_channels": 12}, {"out_channels": 8, "stride": 2}):
        assert [type(layer) for layer in block(in_channels=8, **arguments).shortcut] == [nn.Conv2d, nn.BatchNorm2d]


@pytest.mark.parametrize(
    ("name", "short"), [("batchnorm", "bn"), ("groupnorm", "gn"), ("layernorm", "ln"), ("instancenorm", "in")]
)
def test_norms_have_their_published_names(name, short):
    part = PARTS["ResNetBasicBlock"]
    assert part.model_validate({"norm_type": name}) == part.model_validate({"norm_type": short})


def test_widths():
    convs = [
        m
        for m in build("ResNetBottleneck", in_channels=8, out_channels=32, stride=2).branch
        if isinstance(m, nn.Conv2d)
    ]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs] == [
        (8, 8, 1, 1),
        (8, 8, 3, 2),
        (8, 32, 1, 1),
    ]
    convs = [
        m
        for m in build("ResNetBasicBlock", in_channels=8, out_channels=32, stride=2).branch
        if isinstance(m, nn.Conv2d)
    ]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs] == [
        (8, 32, 3, 2),
        (32, 32, 3, 1),
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_identity_block_learns(norm):
    net = build("ResNetBasicBlock", in_channels=8, out_channels=8, norm_type=norm)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(4, 8, 7, 7)
    for _ in range(2):  # the branch's weights get gradients once its last norm has left zero
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    assert net.branch[0].weight.grad.abs().sum() > 0


def test_group_norm_of_odd_channels():
    net = build("ResNetBasicBlock", in_channels=24, out_channels=24, norm_type="gn")
    assert net.branch[1].num_groups == 8
    published = BuildOptions(norm_groups=1)
    assert build("ResNetBasicBlock", 24, norm_type="gn", options=published).branch[1].num_groups == 1


# ViT


def test_vit_block_is_timms():
    net = build("VisionTransformerBlock", in_channels=24, num_heads=4, mlp_ratio=2.0).eval()
    reference = Block(24, 4, 2.0, qkv_bias=True).eval()
    reference.load_state_dict(net.block.state_dict())
    x = torch.randn(2, 10, 24)
    assert torch.equal(net(x), reference(x))
    assert isinstance(net.project, nn.Identity)
    assert net.block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("arguments", "width"),
    [
        ({}, 24),
        ({"embed_dim": 36}, 36),
        ({"out_channels": 36}, 36),
        ({"out_channels": 36, "embed_dim": 36}, 36),
        ({"out_channels": 36, "embed_dim": 24}, 36),
    ],
)
def test_vit_block_width(arguments, width):
    net = build("VisionTransformerBlock", in_channels=24, in_format="bert", **arguments)
    assert isinstance(net.project, nn.Linear) == (width != 24)
    assert net(torch.randn(2, 10, 24)).shape == (2, 10, width)
    assert net.to("meta")(torch.empty(2, 10, 24, device="meta")).shape == (2, 10, width)


@pytest.mark.parametrize("option", ["dropout", "attention_dropout"])
def test_vit_block_dropout(option):
    torch.manual_seed(0)
    net = build("VisionTransformerBlock", in_channels=24, **{option: 0.5})
    x = torch.randn(2, 10, 24)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 5}, "a divisor of 24: 1, 2, 3, 4, 6, 8, 12, 24"),
        ({"embed_dim": 36, "out_channels": 48}, "embed_dim 36 cannot output 48"),
        ({"in_format": "img"}, "works on token, in_format is img"),
    ],
)
def test_vit_block_errors(arguments, words):
    with pytest.raises(UserError, match=words):
        build("VisionTransformerBlock", in_channels=24, **arguments)


# Swin


@pytest.mark.parametrize(("shift", "expected"), [(False, 0), (True, 3)])
def test_swin_block_is_torchvisions(shift, expected):
    net = build("SwinTransformerBlock", 24, do_shift=shift).eval()
    assert net.attn.shift_size == [expected, expected]
    assert net.attn.window_size == [7, 7]
    reference = swin_transformer.SwinTransformerBlock(24, 6, [7, 7], [expected, expected]).eval()
    reference.load_state_dict(net.state_dict())
    x = torch.randn(2, 14, 14, 24)
    assert torch.equal(net(x), reference(x))


@pytest.mark.parametrize("shape", [(2, 14, 14, 24), (2, 5, 9, 24)])
def test_swin_block_takes_any_size(shape):
    net = build("SwinTransformerBlock", 24, num_heads=4, do_shift=True, window_size=4)
    assert net(torch.randn(shape)).shape == shape
    assert net.to("meta")(torch.empty(shape, device="meta")).shape == shape


@pytest.mark.parametrize("option", ["dropout", "attention_dropout", "stochastic_depth"])
def test_swin_block_dropout(option):
    torch.manual_seed(0)
    net = build("SwinTransformerBlock", 24, **{option: 0.5})
    x = torch.randn(8, 7, 7, 24)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))


def test_swin_block_heads():
    with pytest.raises(UserError, match="7 heads cannot share 24 channels"):
        build("SwinTransformerBlock", 24, num_heads=7)


# Our own networks


@pytest.mark.parametrize(("size", "blocks"), [(8, 4), (32, 4), (30, 2), (1, 3)])
def test_smallnet(size, blocks):
    net = SmallNet(num_blocks=blocks, num_classes=7, in_chans=1, width=16).eval()
    assert net(torch.randn(2, 1, size, size)).shape == (2, 7)
    assert [name for name, _ in net.blocks.named_children()] == [str(i) for i in range(blocks)]


def test_smallnet_halves_the_map():
    net = SmallNet().eval()
    assert net.blocks(torch.randn(1, 3, 32, 32)).shape == (1, 64, 2, 2)
    assert net.blocks[0](torch.randn(1, 3, 32, 32)).shape == (1, 64, 16, 16)


def test_smallnet_can_be_traced():
    net = SmallNet(num_blocks=2).eval()
    traced = fx.symbolic_trace(net)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(traced(x), net(x))
    assert "blocks.1.0" in [node.target for node in traced.graph.nodes]


def test_smallnet_without_blocks():
    with pytest.raises(UserError, match="num_blocks is 0"):
        SmallNet(num_blocks=0)


def test_convnet_is_the_published_encoder():
    net = ConvNet(num_blocks=3, in_chans=1)
    assert [name for name, _ in net.named_children()] == ["encoder"]
    assert [name for name, _ in net.encoder.named_children()] == ["block1", "block2", "block3"]
    layers = [type(layer).__name__ for layer in net.encoder.block1]
    assert layers == ["Conv2d", "InstanceNorm2d", "ReLU", "MaxPool2d"]
    conv, norm = net.encoder.block2[:2]
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.padding) == (64, 64, (3, 3), (1, 1))
    assert conv.bias is not None
    assert norm.affine
    assert not norm.track_running_stats
    assert net(torch.randn(2, 1, 33, 32)).shape == (2, 64, 4, 4)
    with pytest.raises(UserError, match="num_blocks is 0"):
        ConvNet(num_blocks=0)


def test_convnet_and_a_head_have_the_published_parameters():
    parts = [{"Net": {"model_name": "convnet", "num_blocks": 4}}, {"ClassifierHead": {}}]
    job = Job.model_validate({"assembly": parts, "train_config": {"dataset": "cifar100"}})
    network = build_network(job.network, Format("img", 3, (32, 32)), BuildOptions(meta=True, num_classes=100))
    # The first block's convolution and norm, three more blocks', and the head's layer.
    expected = (27 + 1 + 2) * 64 + 3 * (9 * 64 + 1 + 2) * 64 + (64 + 1) * 100
    assert sum(weight.numel() for weight in network.parameters()) == expected == 119_588


def test_a_convnet_of_before_is_told_where_it_is_now_and_not_taken_for_another_network():
    for argument in ({"width": 8}, {"num_classes": 10}):
        with pytest.raises(UserError, match="smallnet"):
            build_meta(ModelSpec.parse("local/convnet", **argument))
    now, before = (ModelFields(model_name=name) for name in ("convnet", "smallnet"))
    assert published_as(now) != published_as(before) == ("local/convnet", None)
