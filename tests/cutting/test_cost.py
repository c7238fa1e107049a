"""Multiply-adds and parameters: published numbers, and the same numbers by every way of counting."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stitching.cutting.cost import cost, cut_costs
from stitching.cutting.cut_points import cut_points, extract, trace
from stitching.cutting.formats import Format
from stitching.models.building import build_meta
from stitching.models.spec import ModelSpec

# The published figures, in billions and millions. ViT-S counts 4.24 without the two products of attention, 4.60 with.
PUBLISHED = [
    ("timm/resnet50", 4.09, 25.56),
    ("torchvision/swin_t", 4.49, 28.29),
    ("timm/vit_small_patch16_224", 4.60, 22.05),
    ("timm/mobilenetv3_large_100", 0.217, 5.48),
    ("torchvision/vit_b_16", 17.56, 86.57),
]


@pytest.mark.parametrize(("title", "giga", "mega"), PUBLISHED)
def test_published_numbers_with_and_without_gradients(title: str, giga: float, mega: float) -> None:
    model = build_meta(ModelSpec.parse(title))
    found = cost(model, (3, 224, 224))
    assert found.macs / 1e9 == pytest.approx(giga, rel=2e-3)
    assert found.params / 1e6 == pytest.approx(mega, rel=1e-3)
    with torch.no_grad():  # which changes what is counted as little as the mode does
        assert cost(model.requires_grad_(False).train(), Format("img", 3, (224, 224))) == found


@pytest.mark.parametrize("title", ["timm/resnet50", "torchvision/swin_t", "timm/vit_small_patch16_224"])
def test_every_cut_point_has_what_its_pieces_cost(title: str) -> None:
    model = build_meta(ModelSpec.parse(title))
    traced = trace(model)
    points, costs = cut_points(traced), cut_costs(traced)
    whole = cost(model, (3, 224, 224))
    assert list(costs) == [point.name for point in points]
    assert costs[points[-1].name].before == costs[points[0].name].after == whole
    for point in points[4 : -1 : len(points) // 5]:
        front, back = extract(traced, points[0], point), extract(traced, point, points[-1])
        assert costs[point.name].before == cost(front, (3, 224, 224))
        assert costs[point.name].after == cost(back, point.format)


@pytest.mark.parametrize(
    ("title", "side", "heads"),
    [("torchvision/googlenet", 224, 6_379_984), ("torchvision/inception_v3", 299, 3_326_696)],
)
def test_auxiliary_heads_do_not_count(title: str, side: int, heads: int) -> None:
    model = build_meta(ModelSpec.parse(title))
    traced = trace(model)
    found = cost(model, (3, side, side))
    assert found.params == sum(p.numel() for p in model.parameters()) - heads
    *_, last = cut_costs(traced, (3, side, side)).values()
    assert found == last.before


def test_trainable_parameters_are_those_in_use_that_have_gradients() -> None:
    class WithSpare(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            trained, frozen, _ = self
            return frozen(trained(x))

    model = WithSpare(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(9, 9))
    model[1].requires_grad_(False)
    found = cost(model, (4,))
    assert (found.params, found.trainable) == (15 + 8, 15)
