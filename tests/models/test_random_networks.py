"""Random networks: no branch is switched off, and BatchNorm has the statistics of images, whatever the architecture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from stitching.config.preprocessing import Preprocessing
from stitching.models.building import build
from stitching.models.random_networks import ImageSample, measure_statistics, open_branches
from stitching.models.spec import ModelSpec

RESNET = ModelSpec.parse("timm/resnet18", num_classes=10, in_chans=1, channels=[8, 8, 12, 16])
SMALL = {
    "a norm": RESNET,
    "a norm in a module of norm and activation": ModelSpec.parse("timm/regnetx_002"),
    "a gate": ModelSpec.parse("timm/convnext_atto", depths=[1, 1, 1, 1], dims=[8, 8, 8, 8]),
    "a gate in a sequence": ModelSpec.parse("timm/deit3_small_patch16_224", embed_dim=24, num_heads=3, depth=2),
    "a gain of weights": ModelSpec.parse("timm/nf_resnet26"),
}
SAMPLE = ImageSample("digits", None, Preprocessing(image_size=16, data_augmentation="none"), seed=3)


def idle(model: nn.Module) -> list[str]:
    """The weights that the output does not depend on, or but for rounding."""
    shape = model.default_input_shape
    model.eval()(torch.randn(2, *shape)).square().sum().backward()
    sizes = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.dim() > 1}
    return [name for name, size in sizes.items() if size < 1e-4 * max(sizes.values())]


@pytest.mark.parametrize("spec", SMALL.values(), ids=SMALL)
def test_no_branch_is_switched_off(spec):
    assert len(idle(build(spec, 0))) > 2  # as the library makes it
    assert idle(build(replace(spec, random=True), 0)) == []


def test_everything_else_is_as_the_library_makes_it():
    plain, opened = (build(spec, 5).state_dict() for spec in (RESNET, replace(RESNET, random=True)))
    other = {name for name in plain if not torch.equal(plain[name], opened[name])}
    assert other == {f"layer{i}.{j}.bn2.weight" for i in (1, 2, 3, 4) for j in (0, 1)}
    assert all(opened[name].eq(1).all() for name in other)
    local = ModelSpec.parse("local/smallnet", width=8, in_chans=1)
    plain, opened = (build(spec, 5).state_dict() for spec in (local, replace(local, random=True)))
    assert all(torch.equal(plain[name], opened[name]) for name in plain)


class WithTables(nn.Module):
    """What stands at zero without switching anything off, and layers that do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, 4, 4))
        self.scale = nn.Parameter(torch.full((3, 1, 1), 0.1))
        self.gamma = nn.Parameter(torch.full((3,), 1e-6))
        self.last = nn.Conv2d(3, 3, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.table) * self.scale + self.gamma.view(1, 3, 1, 1).expand_as(x) * self.last(x)


def test_tables_that_are_added_and_gates_that_are_open_stay():
    torch.manual_seed(0)
    model = WithTables()
    open_branches(model, (3, 4, 4))
    assert not model.table.any()
    assert model.scale.eq(0.1).all()
    assert model.gamma.eq(1).all()
    assert model.last.weight.abs().min() > 0


def test_random_weights_follow_the_seed_and_leave_the_random_state_alone():
    spec = replace(SMALL["a gain of weights"], random=True, sample=None)
    state = torch.get_rng_state()
    first, again, other = (build(spec, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.conv.weight"], other["stem.conv.weight"])


def test_statistics_are_those_of_the_batches():
    model = build(replace(RESNET, random=True, sample=SAMPLE), 0)
    assert model.statistics_images == 256
    assert model.training
    assert model.bn1.momentum == 0.1
    batches = [model.conv1(images) for images, _ in SAMPLE.batches().epoch(0)]
    means = torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in batches]).mean(0)
    assert torch.allclose(model.bn1.running_mean, means, atol=1e-6)
    assert torch.allclose(model.bn1.running_var, variances, rtol=1e-4)
    again = build(replace(RESNET, random=True, sample=SAMPLE), 0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_images_that_a_network_does_not_take_leave_it_alone():
    colour = build(replace(RESNET, args=tuple({**dict(RESNET.args), "in_chans": 3}.items()), random=True), 0)
    before = colour.state_dict()
    assert measure_statistics(colour, SAMPLE) == 0
    assert all(torch.equal(value, before[name]) for name, value in colour.state_dict().items())
    assert measure_statistics(nn.Sequential(nn.Flatten(), nn.LayerNorm(256)), SAMPLE) == 0
