"""Parts in a row: which layout each works on, what is converted between them, and what cannot follow what."""

from __future__ import annotations

import pytest
import torch

from stitching.config.errors import UserError
from stitching.config.job_config import Job
from stitching.cutting.formats import Format
from stitching.models.traced_models import first_model
from stitching.nets.build import BuildOptions, build_network

VIT = {
    "backend": "timm", "model_name": "vit_tiny_patch16_224", "pretrained": False, "in_chans": 1, "img_size": 16,
    "patch_size": 4, "embed_dim": 24, "num_heads": 3, "depth": 4,
}  # fmt: skip
FRONT = {"Subnet": {**VIT, "block_output": "blocks.0"}}
BACK = {"Subnet": {**VIT, "block_input": "blocks.2", "num_classes": 10}}


def network(*parts: dict, **options):
    model = {"Assembly": {"parts": list(parts)}}
    job = Job.model_validate({"model": model, "train_config": {"dataset": "digits"}})
    return build_network(job.network, Format("img", 1, (16, 16)), BuildOptions(num_classes=10, **options))


ADAPTERS = {
    "linear": {"SimpleAdapter": {"num_fc": 1}},
    "block": {"VisionTransformerBlock": {"num_heads": 3}},
}


@pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
@pytest.mark.parametrize(("declared", "prefix"), [("bert", 1), ("token", 0)])
def test_a_part_on_sequences_works_on_what_it_declares(adapter, declared, prefix):
    ((name, arguments),) = adapter.items()
    built = network(FRONT, {name: {**arguments, "in_format": declared}}, BACK)
    out = built.pieces[1].out_format
    assert str(out) == ("bert 24x16+1" if prefix else "token 24x16")
    seen = []
    built.pieces[1].net.register_forward_hook(lambda module, args, made: seen.append(made.shape[1]))
    assert built.eval()(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    assert seen == [16 + prefix]


def test_the_class_token_goes_through_a_linear_adapter_on_bert():
    """With identity weights the adapter changes nothing, so the class token must arrive as it left."""
    same = {"SimpleAdapter": {"num_fc": 1, "in_format": "bert", "leading_norm": False, "trailing_norm": False,
                              "nonlinearity": False, "init_identity": True}}  # fmt: skip
    with_adapter, without = network(FRONT, same, BACK).eval(), network(FRONT, BACK).eval()
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(with_adapter(x), without(x))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"ResNetBasicBlock": {"in_format": "bert"}}, "works on img, in_format is bert"),
        ({"DeRyAdapter": {"mode": "vit2vit", "num_fc": 1, "in_format": "bert"}}, "works on token, in_format is bert"),
        ({"SimpleAdapter": {"num_fc": 1, "in_format": "img"}}, "works on token, in_format is img"),
        ({"VisionTransformerBlock": {"num_heads": 3, "in_format": "bhwc"}}, "works on token, in_format is bhwc"),
        ({"Subnet": {**VIT, "block_input": "blocks.1", "block_output": "blocks.1", "in_format": "img"}}, "bert"),
    ],
)
def test_another_layout_than_the_part_works_on_is_refused(part, words):
    with pytest.raises(UserError) as caught:
        network(FRONT, part, BACK)
    assert words in str(caught.value)
    assert caught.value.path[-1] == "in_format"


@pytest.mark.parametrize("where", ["in front of a part", "in front of the head", "inside an assembly"])
def test_nothing_follows_a_list(where):
    heads = {"ParallelPart": {"parts": [{"ClassifierHead": {}}, {"ClassifierHead": {}}]}}
    inside = {"Assembly": {"parts": [heads]}} if where == "inside an assembly" else heads
    last = {"head": {"ClassifierHead": {}}} if where == "in front of the head" else {}
    parts = [FRONT, inside] + ([] if last else [{"ClassifierHead": {}}])
    model = {"Assembly": {"parts": parts, **last}}
    job = Job.model_validate({"model": model, "train_config": {"dataset": "digits"}})
    with pytest.raises(UserError, match="returns a list"):
        build_network(job.network, Format("img", 1, (16, 16)), BuildOptions(num_classes=10))


def test_the_model_that_sees_the_images():
    job = Job.model_validate({"model": {"Assembly": {"parts": [FRONT, BACK]}}, "train_config": {"dataset": "digits"}})
    spec = first_model(job.network)
    assert spec is not None
    assert spec.title == "timm/vit_tiny_patch16_224"
    job = Job.model_validate({"model": {"ClassifierHead": {}}, "train_config": {"dataset": "digits"}})
    assert first_model(job.network) is None


@pytest.mark.parametrize(
    "model",
    [
        {"backend": "torchvision", "model_name": "googlenet"},
        {"backend": "timm", "model_name": "inception_v3", "aux_logits": True},
    ],
    ids=lambda model: model["model_name"],
)
def test_a_model_with_auxiliary_heads_gives_its_main_output_in_both_modes(model):
    part = {"Net": {**model, "pretrained": False, "num_classes": 7}}
    job = Job.model_validate({"model": part, "train_config": {"dataset": "digits"}})
    built = build_network(job.network, Format("img", 3, (299, 299)), BuildOptions(meta=True))
    images = torch.empty(2, 3, 299, 299, device="meta")
    assert built.train()(images).shape == built.eval()(images).shape == (2, 7)


DINO = {
    "backend": "timm", "model_name": "vit_small_patch16_dinov3", "pretrained": False, "in_chans": 1, "patch_size": 4,
    "embed_dim": 24, "num_heads": 3, "depth": 2, "num_classes": 10,
}  # fmt: skip


def test_pieces_that_hold_sizes_are_cut_for_the_images_of_the_data():
    """DINOv3 is for images of 256x256 unless told otherwise, and its blocks need a table of positions of their size."""
    whole = network({"Subnet": DINO}).eval()
    cut = network({"Subnet": {**DINO, "block_output": "blocks.0"}}, {"Subnet": {**DINO, "block_input": "blocks.1"}})
    assert [piece.net.sized_for for piece in cut.pieces] == [(1, 16, 16), (1, 16, 16)]
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(cut.eval()(images), whole(images))
