"""Where an adapter can be fitted, and which vectors of the two networks are paired."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter

from stitching.config.errors import UserError
from stitching.config.parts import PartField
from stitching.cutting.formats import Format
from stitching.nets.build import BuildOptions
from stitching.similarity.least_squares import build_stitched_network, fit_of
from stitching.training.fit_adapters import Stitched

RESNET = {
    "backend": "timm", "model_name": "resnet18", "pretrained": False, "num_classes": 10, "in_chans": 1,
    "channels": [8, 8, 12, 16], "frozen": True,
}  # fmt: skip
VIT = {
    "backend": "timm", "model_name": "vit_tiny_patch16_224", "pretrained": False, "num_classes": 10, "in_chans": 1,
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "depth": 4, "frozen": True,
}  # fmt: skip
LINEAR = {
    "num_conv": 1, "kernel_size": 1, "leading_norm": False, "trailing_norm": False, "nonlinearity": False,
    "init": "least_squares",
}  # fmt: skip
FRONT = {"Subnet": {**RESNET, "block_output": "layer1"}}
BACK = {"Subnet": {**RESNET, "block_input": "layer2"}}


def network(*parts: dict, side: int = 32, **options):
    part = TypeAdapter(PartField).validate_python({"Assembly": {"parts": list(parts)}})
    return build_stitched_network(part, Format("img", 1, (side, side)), BuildOptions(num_classes=10, **options))


def adapter(**arguments) -> dict:
    return {"SimpleAdapter": {**LINEAR, **arguments}}


def test_only_what_asks_for_it_is_fitted():
    assert fit_of(network(FRONT, {"SimpleAdapter": {"num_conv": 1}}, BACK)) is None
    fit = fit_of(network(FRONT, adapter(), BACK))
    assert fit.index == 1
    assert (fit.model.name, fit.start.name) == ("resnet18", "layer1.1.act2")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"leading_norm": True}, "leading_norm: false"),
        ({"trailing_norm": True, "nonlinearity": True}, "trailing_norm: false, nonlinearity: false"),
        ({"kernel_size": 3, "padding": 0}, "kernel_size: 1"),
        ({"padding": 1}, "padding: 0"),
        ({"stride": 2}, "stride: 1"),
        ({"num_conv": 2}, "num_conv: 1"),
    ],
)
def test_what_is_no_linear_map_is_told(wrong, told):
    with pytest.raises(UserError, match="one linear map") as error:
        network(FRONT, adapter(**wrong), BACK, meta=True)
    assert told in str(error.value)
    assert error.value.path == ("Assembly", "parts", 1, "SimpleAdapter", "init")


def without(part: dict, key: str) -> dict:
    return {"Subnet": {name: value for name, value in part["Subnet"].items() if name != key}}


@pytest.mark.parametrize(
    ("parts", "options", "told"),
    [
        ([FRONT, adapter(), without(BACK, "frozen")], {}, "part 2 is not frozen"),
        ([without(FRONT, "frozen"), adapter(), BACK], {}, "part 0 is not frozen"),
        ([FRONT, adapter(), BACK], {"unfrozen": True}, "part 0 is not frozen"),
        ([FRONT, adapter(out_channels=1), {"Net": {**RESNET}}], {}, "does not begin inside a model"),
        ([FRONT, adapter(), adapter(), BACK], {}, "2 adapters"),
        ([FRONT, adapter(frozen=True), BACK], {}, "a frozen adapter"),
        ([FRONT, adapter()], {}, "it is part 1 of 2"),
        ([FRONT, {"Assembly": {"parts": [adapter()]}}, BACK], {}, "inside a nested part"),
    ],
)
def test_where_nothing_can_be_fitted_is_told(parts, options, told):
    with pytest.raises(UserError, match=told):
        network(*parts, meta=True, **options)


def test_a_destination_for_other_images_is_told():
    vit = {"Subnet": {**VIT, "block_input": "blocks.1"}}
    with pytest.raises(UserError, match="of the same images, and it cannot take them"):
        network(FRONT, adapter(out_channels=24, in_format=["img", [8, 4, 4]]), vit, side=64, meta=True)


def test_rows_are_the_positions_of_the_adapters_map():
    fit = fit_of(network(FRONT, adapter(in_format=["img", [8, 8, 8]]), BACK))
    adapter_input, target = torch.randn(3, 8, 8, 8), torch.randn(3, 8, 8, 8)
    input_rows, target_rows = fit.rows(adapter_input, target)
    assert torch.equal(input_rows, adapter_input.flatten(2).transpose(1, 2))
    assert torch.equal(target_rows, target.flatten(2).transpose(1, 2))


def test_a_map_of_another_size_is_resized_as_the_network_resizes_it():
    fit = fit_of(network(FRONT, adapter(in_format=["img", [8, 4, 4]]), BACK))
    adapter_input, target = torch.randn(3, 8, 8, 8), torch.randn(3, 8, 8, 8)
    input_rows, target_rows = fit.rows(adapter_input, target)
    for rows, x in ((input_rows, adapter_input), (target_rows, target)):
        small = torch.nn.functional.interpolate(x, (4, 4), mode="bilinear", align_corners=False)
        assert torch.equal(rows, small.flatten(2).transpose(1, 2))


def test_a_class_token_takes_part_where_both_sides_have_one():
    first = {"Subnet": {**VIT, "block_output": "blocks.0"}}
    last = {"Subnet": {**VIT, "block_input": "blocks.2"}}
    fc = {**{key: value for key, value in LINEAR.items() if key not in ("num_conv", "kernel_size")}, "num_fc": 1}
    between = fit_of(network(first, {"SimpleAdapter": {**fc, "fc_format": "bert"}}, last))
    tokens, target = torch.randn(2, 17, 24), torch.randn(2, 17, 24)
    assert all(map(torch.equal, between.rows(tokens, target), (tokens, target)))
    to_image = fit_of(network(first, adapter(out_channels=8, in_format=["img", [48, 8, 8]]), BACK))
    input_rows, target_rows = to_image.rows(tokens, torch.randn(2, 8, 8, 8))
    assert (input_rows.shape, target_rows.shape) == ((2, 64, 48), (2, 64, 8))  # the class token is spread over the map


# ------------------------------------------------------------------------ prefix tokens that the source has not

TO_VIT = {"out_channels": 24, "in_format": ["img", [8, 4, 4]]}
LAST = {"Subnet": {**VIT, "block_input": "blocks.2"}}


def test_an_adapter_from_an_image_makes_the_class_token_from_the_quarters_of_its_input():
    built = network(FRONT, adapter(**TO_VIT), LAST)
    fit = fit_of(built)
    adapter_input, target = torch.randn(3, 8, 4, 4), torch.randn(3, 17, 24)
    assert torch.equal(fit.rows(adapter_input, target)[1], target[:, 1:])
    means, tokens = fit.token_rows(adapter_input, target)
    quarters = adapter_input.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5)).flatten(1)
    assert torch.allclose(means, quarters, atol=1e-6)
    assert torch.equal(tokens, target[:, 0])
    assert str(built.pieces[1].out_format) == "bert 24x16+1"
    assert not built.pieces[2].before.changes  # no token is made behind the adapter
    assert sum(p.numel() for p in built.pieces[1].parameters()) == 8 * 24 + 24 + 4 * 8 * 24 + 24


def test_a_class_token_that_is_a_linear_map_of_the_quarters_is_found():
    fit = fit_of(network(FRONT, adapter(**TO_VIT), LAST))
    stitched = Stitched(None, fit, None, None)
    images, positions, token = torch.randn(60, 8, 4, 4), torch.randn(8, 24), torch.randn(32, 24)
    quarters = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
    target = torch.cat([(quarters @ token + 3)[:, None], images.flatten(2).transpose(1, 2) @ positions - 1], 1)
    for batch in zip(images.split(20), target.split(20), strict=True):
        stitched.add(*batch)
    before = fit.piece.net(images)[:, 0]
    assert not before.any()  # as a conversion makes it
    stitched.solve()
    output = fit.piece.net(images)
    assert torch.allclose(output, target, atol=1e-3)
    assert all(map(torch.equal, fit.output_token_rows(target, output), (output[:, 0], target[:, 0])))
    assert torch.equal(fit.output_rows(target, output)[0], output[:, 1:])


def test_tokens_that_arrive_stay_and_those_that_lack_are_made():
    registers = {"Subnet": {**VIT, "reg_tokens": 4, "block_input": "blocks.2"}}
    first = {"Subnet": {**VIT, "block_output": "blocks.0"}}
    fc = {**{key: value for key, value in LINEAR.items() if key not in ("num_conv", "kernel_size")}, "num_fc": 1}
    built = network(first, {"SimpleAdapter": {**fc, "fc_format": "bert"}}, registers)
    fit = fit_of(built)
    assert str(built.pieces[1].out_format) == "bert 24x16+5"
    x, target = torch.randn(2, 17, 24), torch.randn(2, 21, 24)
    assert [tuple(each.shape) for each in fit.rows(x, target)] == [(2, 17, 24)] * 2
    means, tokens = fit.token_rows(x, target)
    assert torch.equal(means, x[:, 1:].mean(1))
    assert torch.equal(tokens, target[:, 1:5].flatten(1))
    assert torch.equal(fit.piece.net(x)[:, :1], fit.layer(x)[:, :1])  # the class token is mapped like a position
    assert not fit.piece.net(x)[:, 1:5].any()


@pytest.mark.parametrize(
    ("adapter_part", "back"),
    [
        ({"SimpleAdapter": {**LINEAR, **TO_VIT, "prefix_tokens": 0}}, LAST),
        ({"SimpleAdapter": {**LINEAR, **TO_VIT, "out_format": ["img", [24, 4, 4]]}}, LAST),
        ({"SimpleAdapter": {**LINEAR}}, BACK),
    ],
    ids=["declined", "laid out otherwise", "not needed"],
)
def test_no_tokens_are_made_where_none_are_asked_for(adapter_part, back):
    fit = fit_of(network(FRONT, adapter_part, back))
    assert fit.prefix is None
    assert fit.token_rows(torch.randn(2, 8, 4, 4), torch.randn(2, 17, 24)) is None


def test_tokens_are_made_by_adapters_that_are_fitted_alone():
    plain = {key: value for key, value in LINEAR.items() if key != "init"}
    with pytest.raises(ValueError, match="prefix_tokens are of an adapter that is fitted"):
        network(FRONT, {"SimpleAdapter": {**plain, **TO_VIT, "prefix_tokens": 1}}, LAST)
    assert fit_of(network(FRONT, {"SimpleAdapter": {**plain, **TO_VIT}}, LAST)) is None
