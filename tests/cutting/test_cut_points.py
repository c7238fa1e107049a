"""Places to cut: what names mean, which formats are found there, and what has no such places."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

from stitching.config.errors import UserError
from stitching.cutting.cut_points import CutPoint, TracedModel, cut_points, extract, resolve, trace
from stitching.models.building import build_meta
from stitching.models.spec import ModelSpec

Shape = tuple[int, int, int]


@lru_cache
def traced(title: str) -> TracedModel:
    return trace(build_meta(ModelSpec.parse(title)))


NAMES = [
    ("timm/resnet50", "layer3", "input", "layer2.3.act3"),
    ("timm/resnet50", "layer4", "output", "layer4.2.act3"),
    ("timm/resnet50", "x", "input", "x"),
    ("timm/resnet50", None, "input", "x"),
    ("timm/resnet50", None, "output", "fc"),
    ("timm/resnet50", "layer1.0.add", "output", "layer1.0.add"),
    ("timm/resnet50", "maxpool", "input", "act1"),
    ("torchvision/swin_t", "features.3", "input", "features.2.reduction"),
    ("torchvision/swin_t", "features.3", "output", "features.3.1.add_1"),
    ("torchvision/resnet18", "layer1.0.relu_1", "output", "layer1.0.relu_1"),
    ("torchvision/vit_b_16", "encoder.layers.encoder_layer_3", "input", "encoder.layers.encoder_layer_2.add_1"),
    ("timm/vit_small_patch16_224", "blocks.11", "output", "blocks.11.add_1"),
]


@pytest.mark.parametrize(("title", "name", "side", "found"), NAMES)
def test_names_of_modules_and_nodes(title: str, name: str | None, side: str, found: str) -> None:
    assert resolve(traced(title), name, side).name == found  # type: ignore[arg-type]


def test_every_cut_point_is_found_by_its_own_name() -> None:
    cut = traced("torchvision/swin_t")
    assert [resolve(cut, point.name) for point in cut_points(cut)] == cut_points(cut)


def test_a_place_where_several_values_cross_names_them() -> None:
    with pytest.raises(UserError, match=r"output of 'layer1.0.conv1'.* 2 values cross there \(maxpool, ") as error:
        resolve(traced("timm/resnet18"), "layer1.0.conv1")
    assert "'maxpool' and 'layer1.0.add'" in str(error.value)
    with pytest.raises(UserError, match=r"input of 'layer1\.0\.add'.*2 values cross there \(maxpool, layer1\.0\.bn2\)"):
        resolve(traced("timm/resnet18"), "layer1.0.add", "input")


def test_names_that_do_not_exist_or_take_no_part() -> None:
    with pytest.raises(UserError, match=r"no node or module in ResNet 'layer5'; did you mean 'layer4'"):
        resolve(traced("timm/resnet18"), "layer5")
    with pytest.raises(UserError, match="'aux1' in GoogLeNet is not used for its output"):
        resolve(traced("torchvision/googlenet"), "aux1")
    with pytest.raises(UserError, match="'pos_embed' in VisionTransformer does not depend on the input"):
        resolve(traced("timm/vit_small_patch16_224"), "pos_embed")


def test_the_end_comes_after_the_start() -> None:
    cut = traced("timm/resnet18")
    first, second = resolve(cut, "layer1"), resolve(cut, "layer2")
    for start, end in ((second, first), (first, first)):
        with pytest.raises(UserError, match="does not come after"):
            extract(cut, start, end)


FORMATS = [
    ("timm/resnet18", "layer3", "img 256x14x14", None),
    ("torchvision/swin_t", "features.3", "bhwc 192x28x28", None),
    ("timm/vit_small_patch16_224", "blocks.3", "bert 384x196+1", None),
    ("timm/vit_small_patch16_224", "patch_embed", "token 384x196", None),
    ("timm/vit_small_patch14_reg4_dinov2", "blocks.3", "bert 384x1369+5", None),
    ("timm/deit_tiny_distilled_patch16_224", "blocks.3", "bert 192x196+2", None),
    ("torchvision/vit_b_16", "encoder.layers.encoder_layer_3", "bert 768x196+1", None),
    ("timm/resnet18", "fc", "vector 1000", None),
    ("timm/resnet18", "layer3", "img 256x4x6", (3, 64, 96)),  # maps that are not square
    ("torchvision/swin_t", "features.3", "bhwc 192x8x12", (3, 64, 96)),
    ("timm/convnext_atto", "stages.1", "img 80x80x80", (3, 640, 640)),  # as many channels as rows
    ("torchvision/swin_t", "features.1", "bhwc 96x96x96", (3, 384, 384)),
    ("timm/resnet18", "layer4", "img 512x1x1", (3, 8, 8)),
]


@pytest.mark.parametrize(("title", "name", "format_", "shape"), FORMATS)
def test_formats_are_discovered(title: str, name: str, format_: str, shape: Shape | None) -> None:
    assert str(resolve(traced(title), name, "output", shape).format) == format_


def test_a_tensor_in_no_format_can_be_cut_at_but_has_none() -> None:
    point = resolve(traced("timm/vit_small_patch16_224"), "patch_embed.flatten")
    assert point.layout is None
    with pytest.raises(UserError, match=r"384x196 for each image.*no known format"):
        _ = point.format


def test_images_that_the_model_cannot_take() -> None:
    with pytest.raises(UserError, match="timm/vit_small_patch16_224 cannot take 3x64x64 images: Input height"):
        cut_points(traced("timm/vit_small_patch16_224"), (3, 64, 64))


class Branches(nn.Module):
    """Cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_traced() -> None:
    with pytest.raises(UserError, match="graph of Branches cannot be traced"):
        trace(Branches())


def test_cut_points_are_values_to_compare_and_to_keep() -> None:
    first, again = cut_points(traced("timm/resnet18")), cut_points(traced("timm/resnet18"))
    assert first == again
    assert len({*first, *again}) == len(first)
    assert isinstance(first[3], CutPoint)


class BranchesOnSize(nn.Module):
    """Takes another path for large images, and makes a tensor whose size follows from the input."""

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.shape
        if x.ndim != 4 or height > 8:
            return -x.mean((2, 3))
        return (x * torch.ones(height, width, dtype=x.dtype)).mean((2, 3))


def test_a_branch_on_the_size_of_images_is_decided_and_checked() -> None:
    model = BranchesOnSize()
    cut = trace(model, (3, 8, 8))
    points = cut_points(cut)
    whole = extract(cut, points[0], points[-1])
    small = torch.rand(2, 3, 4, 8)
    assert torch.equal(whole(small), model(small))
    with pytest.raises(UserError, match="another path through the model than those of 3x8x8"):
        whole(torch.rand(2, 3, 16, 16))
    assert torch.ones(2).shape == (2,)


def test_names_are_those_of_torchvisions_feature_extraction() -> None:
    """Every value has the name by which torchvision's feature extraction knows it, at cut points and elsewhere."""
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import get_graph_node_names

    model = resnet18(weights=None)
    traced = trace(model)
    assert list(traced.graphs[False].names.values()) == get_graph_node_names(model)[1]
    assert resolve(traced, "layer1.0.add").name == "layer1.0.add"
