"""Models by name: seeds, arguments, weights from files, and what is told when something is wrong."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from stitching.config.errors import UserError
from stitching.cutting.cut_points import cut_points
from stitching.cutting.tracing import default_input_shape, trace
from stitching.models.building import build, build_meta, input_shape, normalization_note
from stitching.models.prefetch import weights_file
from stitching.models.spec import ModelSpec

SMALL = "local/smallnet"


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


IMAGENET, HALF = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize(
    ("title", "fits", "does_not"),
    [
        ("timm/vit_small_patch16_224.augreg_in1k", HALF, IMAGENET),
        ("timm/resnet50.a1_in1k", IMAGENET, HALF),
        ("torchvision/swin_t", IMAGENET, HALF),
    ],
)
def test_images_normalised_otherwise_than_the_weights_know_are_noted(title: str, fits, does_not) -> None:
    spec = ModelSpec.parse(title, pretrained=True)
    assert normalization_note(spec, *fits) == []
    (note,) = normalization_note(spec, *does_not)
    assert note.startswith(f"{title} was trained with images of mean {fits[0]} and std {fits[1]}")
    assert normalization_note(ModelSpec.parse(title), *does_not) == [], "random weights know no images"


def test_a_title_is_backend_and_name() -> None:
    spec = ModelSpec.parse("timm/resnet50.a1_in1k", pretrained=True)
    assert (spec.backend, spec.name, spec.title) == ("timm", "resnet50.a1_in1k", "timm/resnet50.a1_in1k")
    assert ModelSpec.parse("pytorch/swin_t") == ModelSpec.parse("torchvision/swin_t")
    assert hash(ModelSpec.parse("torchvision/swin_t", depths=[2, 2, 2, 2]))


@pytest.mark.parametrize(
    ("title", "told"),
    [
        ("resnet50", "names no backend"),
        ("tim/resnet50", "no backend 'tim'; did you mean 'timm'"),
        ("timm/resnt50", "did you mean 'resnet50'"),
        ("timm/resnet50.a1_in2k", r"did you mean 'resnet50\.a1_in1k'"),
        ("torchvision/swint", "did you mean 'swin_t'"),
        ("local/smallnets", "did you mean 'smallnet'"),
    ],
)
def test_names_that_do_not_exist(title: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        ModelSpec.parse(title)


def test_weights_depend_on_the_seed_and_the_model_only() -> None:
    spec = ModelSpec.parse("timm/resnet18")
    torch.manual_seed(1)
    first = build(spec, seed=3)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert same(first, build(spec, seed=3))
    assert torch.equal(before, torch.get_rng_state())
    assert not same(first, build(spec, seed=4))
    assert same(first, build(ModelSpec.parse("timm/resnet18.a1_in1k"), seed=3)), "a tag is of weights"
    build_meta(spec)
    assert torch.equal(before, torch.get_rng_state())


def test_arguments_are_passed_on() -> None:
    assert build(ModelSpec.parse(SMALL, num_blocks=2, num_classes=7)).head.out_features == 7
    swin = build(ModelSpec.parse("timm/swin_tiny_patch4_window7_224", depths=[1, 1, 3, 1]))
    assert len(swin.layers[2].blocks) == 3


@pytest.mark.parametrize(
    ("title", "args", "told"),
    [
        ("timm/vit_tiny_patch16_224", {"img_sise": 64}, "no argument of timm/.* 'img_sise'; did you mean 'img_size'"),
        ("torchvision/resnet18", {"num_clases": 2}, "did you mean 'num_classes'"),
        (SMALL, {"n_blocks": 2}, "did you mean 'num_blocks'"),
        ("torchvision/swin_t", {"depths": [1, 1, 1, 1]}, "cannot be built with depths"),
        ("torchvision/vit_b_16", {"image_size": 33}, "cannot be built with image_size: 33"),
        ("torchvision/resnet18", {"num_classes": "many"}, "cannot be built with num_classes: many"),
    ],
)
def test_arguments_that_do_not_fit(title: str, args: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(ModelSpec.parse(title, **args))


VIT, RESNET = "timm/vit_tiny_patch16_224", "timm/resnet18"


@pytest.mark.parametrize(
    ("title", "args", "told"),
    [
        (RESNET, {"act_layer": "x"}, "cannot be built with act_layer: x: KeyError"),
        (RESNET, {"block": 3}, "cannot be built with block: 3: AttributeError"),
        (RESNET, {"channels": [16, 24, 32]}, r"graph of timm/resnet18 with channels: \[16, 24, 32\] cannot be traced"),
        (RESNET, {"layers": [0, 0, 0, 0]}, r"timm/resnet18 with layers: \[0, 0, 0, 0\] cannot take 3x224x224 images"),
        (RESNET, {"drop_rate": "x"}, "with drop_rate: x cannot be traced"),
        (RESNET, {"in_chans": 1.5}, "cannot be built with in_chans: 1.5"),
        (VIT, {"img_size": [32]}, r"cannot be built with img_size: \[32\]"),
        (VIT, {"patch_size": 0}, "cannot be built with patch_size: 0: ZeroDivisionError"),
        (VIT, {"num_heads": 0}, "cannot be built with num_heads: 0: ZeroDivisionError"),
        (VIT, {"depth": 1000000}, "'depth' is 1000000\n  allowed: numbers up to 100,000"),
        (VIT, {"depth": 100000}, "cannot be built with depth: 100000: it would have more than 10,000 layers"),
        (VIT, {"embed_dim": 99999, "num_heads": 1}, "its parameters would have more than 80 GB"),
        (VIT, {"mlp_ratio": float("nan")}, "'mlp_ratio' is nan"),
        (VIT, {"num_classes": 10**22}, "allowed: numbers up to 100,000"),
        ("torchvision/swin_t", {"window_size": [0, 0]}, "cannot be built with window_size"),
        ("torchvision/vit_b_16", {"image_size": 0}, "image_size is 0"),
        (SMALL, {"num_blocks": 90000}, "more than 10,000 layers"),
        (SMALL, {"width": 0}, "local/smallnet with width: 0 cannot take 3x32x32 images"),
        (SMALL, {"width": "x"}, "cannot be built with width: x"),
        (SMALL, {"in_chans": 0}, "in_chans is 0"),
    ],
)
def test_whatever_arguments_make_a_model_raise_is_told(title: str, args: dict, told: str) -> None:
    def look_at() -> None:
        spec = ModelSpec.parse(title, **args)
        cut_points(trace(build_meta(spec)), input_shape(spec))

    with pytest.raises(UserError, match=told):
        look_at()


def test_wrong_arguments_are_not_blamed_on_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stitching.models.building.fetch", lambda _: None)
    with pytest.raises(UserError, match="cannot be built with act_layer: x"):
        build(ModelSpec.parse(RESNET, pretrained=True, act_layer="x"))


@pytest.mark.parametrize(
    ("title", "argument"),
    [
        (RESNET, "checkpoint_path"),
        (RESNET, "pretrained_cfg"),
        (RESNET, "pretrained_cfg_overlay"),
        (RESNET, "pretrained_strict"),
        (RESNET, "cache_dir"),
        (RESNET, "checkpoint_file"),
        ("torchvision/resnet18", "progress"),
        ("torchvision/resnet18", "weights_backbone"),
    ],
)
def test_weights_come_in_by_no_argument_of_a_builder(title: str, argument: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Runs()}, tmp_path / "code.pt")
    with pytest.raises(UserError, match=rf"(?s){argument}.*as `ckp_path`"):
        build_meta(ModelSpec.parse(title, **{argument: "code.pt"}))
    assert not Path("was-run").exists()


def test_a_number_of_windows_is_an_argument() -> None:
    build_meta(ModelSpec.parse("timm/swinv2_cr_tiny_224", window_size=7))
    build_meta(ModelSpec.parse("timm/swinv2_tiny_window8_256", pretrained_window_sizes=[8, 8, 8, 8]))


# ------------------------------------------------------------------------ torchvision's weights


def test_weights_of_torchvision_by_name() -> None:
    best = ModelSpec.parse("torchvision/resnet50", pretrained=True)
    assert best == ModelSpec.parse("torchvision/resnet50", pretrained=True, weights="DEFAULT")
    assert best.weights == "IMAGENET1K_V2"
    first = ModelSpec.parse("torchvision/resnet50", pretrained=True, weights="IMAGENET1K_V1")
    assert weights_file(first) != weights_file(best)
    assert weights_file(first).url == torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url  # type: ignore[union-attr]
    assert ModelSpec.parse("torchvision/resnet50").weights is None


def test_weights_for_larger_images_make_a_model_for_larger_images() -> None:
    spec = ModelSpec.parse("torchvision/vit_b_16", pretrained=True, weights="IMAGENET1K_SWAG_E2E_V1")
    assert input_shape(spec) == (3, 384, 384)
    assert build_meta(spec).image_size == 384


@pytest.mark.parametrize(
    ("title", "arguments", "told"),
    [
        ("torchvision/resnet50", {"weights": "IMAGENET1K_V3"}, "did you mean 'IMAGENET1K_V2'"),
        ("torchvision/swin_t", {"weights": "IMAGENET1K_V2"}, "did you mean 'IMAGENET1K_V1'"),
        ("torchvision/resnet50", {"weights": "DEFAULT", "ckp_path": "a.pt"}, "takes no published weights"),
        ("torchvision/resnet50", {"weights": "DEFAULT", "pretrained": False}, "takes no published weights"),
        ("timm/resnet50", {"weights": "a1_in1k"}, "a timm model's tag is part of its name"),
        (SMALL, {"weights": "DEFAULT"}, "of local/smallnet"),
    ],
)
def test_weights_that_cannot_be_named(title: str, arguments: dict, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        ModelSpec.parse(title, **{"pretrained": True, **arguments})
    assert error.value.path == ("weights",)


def test_a_mapping_is_no_argument() -> None:
    with pytest.raises(UserError, match="argument 'block_args' is dict"):
        ModelSpec.parse("timm/resnet18", block_args={"a": 1})


@pytest.mark.parametrize("title", ["timm/resnet18", "torchvision/regnet_y_400mf", "torchvision/swin_t", SMALL])
def test_on_meta_there_are_shapes_and_no_data(title: str) -> None:
    spec = ModelSpec.parse(title, pretrained=True, ckp_path="nowhere.pt")
    bare, real = build_meta(spec).state_dict(), build(ModelSpec.parse(title)).state_dict()
    assert {key: value.shape for key, value in bare.items()} == {key: value.shape for key, value in real.items()}
    assert all(value.is_meta for value in bare.values())


def test_input_shapes() -> None:
    assert input_shape(ModelSpec.parse("timm/inception_v3")) == (3, 299, 299)
    assert input_shape(ModelSpec.parse("torchvision/swin_t")) == (3, 224, 224)
    assert input_shape(ModelSpec.parse("torchvision/inception_v3")) == (3, 299, 299)
    assert input_shape(ModelSpec.parse("torchvision/vit_h_14", pretrained=False)) == (3, 224, 224)
    assert input_shape(ModelSpec.parse(SMALL, in_chans=1)) == (1, 32, 32)
    spec = ModelSpec.parse("timm/vit_tiny_patch16_224", img_size=[64, 32], in_chans=1)
    assert input_shape(spec) == default_input_shape(build_meta(spec)) == (1, 64, 32)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {f"net.{key}": value for key, value in state.items()},
    ],
)
def test_weights_from_a_file(tmp_path: Path, wrap) -> None:
    source = build(ModelSpec.parse(SMALL), seed=5)
    torch.save(wrap(source.state_dict()), tmp_path / "weights.pt")
    spec = ModelSpec.parse(SMALL, pretrained=True, ckp_path=str(tmp_path / "weights.pt"))
    assert not same(source, build(ModelSpec.parse(SMALL)))
    assert same(source, build(spec))


class Runs:
    """Runs code when it is unpickled the careless way."""

    def __reduce__(self):
        return (Path.touch, (Path("was-run"),))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "empty.pt").touch()
    torch.save({"model": Runs()}, tmp_path / "code.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Runs()))
    whole = build(ModelSpec.parse(SMALL)).state_dict()
    torch.save(whole, tmp_path / "cut-short.pt")
    (tmp_path / "cut-short.pt").write_bytes((tmp_path / "cut-short.pt").read_bytes()[:2000])
    for name in ("text.pt", "empty.pt", "code.pt", "plain.pkl", "cut-short.pt"):
        with pytest.raises(UserError, match="cannot read the weights in"):
            build(ModelSpec.parse(SMALL, ckp_path=name))
    assert not Path("was-run").exists()
    os.mkfifo(tmp_path / "pipe.pt")
    for name, told in {
        "missing.pt": "no file", ".": "a folder", "pipe.pt": "a pipe", "/dev/zero": "a device", "a\0b": "no path",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=told):
            build(ModelSpec.parse(SMALL, ckp_path=name))


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"model": 3},
        {"blocks.0.0.weight": [1.0]},
        {3: torch.zeros(2)},
        {"head.weight": torch.zeros(2, device="meta")},
        {"head.weight": torch.zeros(2, 2).to_sparse()},
        {"state_dict": {"head.weight": None}},
    ],
)
def test_files_without_a_state_dict(tmp_path: Path, content) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="holds no state dict") as error:
        build(ModelSpec.parse(SMALL, ckp_path=str(tmp_path / "odd.pt")))
    assert error.value.path == ("ckp_path",)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    state = build(ModelSpec.parse(SMALL, num_classes=3)).state_dict()
    state["extra"] = state.pop("blocks.0.0.weight")
    torch.save(state, path)
    with pytest.raises(UserError) as error:
        build(ModelSpec.parse(SMALL, num_classes=4, ckp_path=str(path)))
    told = str(error.value)
    assert str(path) in told
    assert "1 missing from the file: blocks.0.0.weight" in told
    assert "1 unknown to the model: extra" in told
    assert "2 of another shape: head.weight (3x64 in the file, 4x64 in the model), head.bias" in told
