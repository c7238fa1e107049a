"""Satlas and RetCCL: torchvision's architectures with weights from elsewhere, in files of the published shapes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor
from weights_server import WeightsServer, as_pickle, is_cached, serving, use_caches

from stitching.config.errors import UserError
from stitching.config.yaml import load_yaml, located
from stitching.models.building import build, build_meta, input_shape
from stitching.models.prefetch import fetch
from stitching.models.sources.satlas_models import SATLAS
from stitching.models.spec import ModelSpec, published_as
from stitching.nets.parts.trained import NetPart
from stitching.runs.kinds import kind_of, load_job

SWIN, RESNET = "Sentinel2_SwinT_SI_RGB", "Sentinel2_Resnet50_SI_RGB"
REPOSITORY = "allenai/satlas-pretrain"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A hub of our own, and empty caches."""
    with serving() as server:
        use_caches(tmp_path, monkeypatch, server.url)
        yield server


SLIM = {"width_per_group": 1}  # of the ResNet's bottlenecks
HEADS = ("head.", "norm.", "fc.")


@lru_cache
def state_of(architecture: str, **arguments: int) -> dict[str, Tensor]:
    """Weights such as somebody might have published: no model has them by itself."""
    with torch.device("meta"):
        state = torchvision.models.get_model(architecture, **arguments).state_dict()
    return {
        key: torch.full(value.shape, 1 if value.dtype == torch.int64 else 0.01, dtype=value.dtype)
        for key, value in state.items()
    }


def satlas_file() -> bytes:
    """As the hub has it: the backbone below a prefix without what is behind it, and what else was trained with it."""
    trunk = {key: value for key, value in state_of("resnet50", **SLIM).items() if not key.startswith(HEADS)}
    backbone = {f"backbone.resnet.{key}": value for key, value in trunk.items()}
    return as_pickle(backbone | {"intermediates.0.fpn.inner_blocks.0.0.weight": torch.zeros(2)})


def test_satlas_from_the_hub(server) -> None:
    server.put_on_hub(REPOSITORY, f"{RESNET.lower()}.pth", satlas_file())
    spec = ModelSpec.parse(f"satlas/{RESNET}", pretrained=True, num_classes=3, **SLIM)
    assert not is_cached(spec)
    fetch([spec])
    assert server.downloads == [f"/{REPOSITORY}/resolve/main/{RESNET.lower()}.pth"]
    state = build(spec).state_dict()
    expected = state_of("resnet50", **SLIM)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items() if not key.startswith(HEADS))
    assert state["fc.weight"].shape[0] == 3
    assert state["fc.weight"].unique().numel() > 1, "it is initialised"


@pytest.mark.parametrize("prefix", ["backbone.backbone.", "backbone.backbone.backbone."])
def test_keys_of_satlas_become_those_of_torchvision(prefix: str) -> None:
    swin = state_of("swin_v2_t")
    backbone = {prefix + key: value for key, value in swin.items() if key.startswith("features.")}
    adapted = SATLAS.adapted(backbone | {"heads.0.layers.0.weight": torch.zeros(2)}, swin)
    assert adapted.keys() == swin.keys()


def test_a_file_of_satlas_as_ckp_path(tmp_path: Path) -> None:
    path = tmp_path / "sentinel2_resnet50_si_rgb.pth"
    path.write_bytes(satlas_file())
    model = build(ModelSpec.parse(f"satlas/{RESNET}", ckp_path=str(path), **SLIM))
    assert torch.equal(model.state_dict()["conv1.weight"], state_of("resnet50", **SLIM)["conv1.weight"])
    bands = {"conv1.weight": torch.zeros(64, 9, 7, 7)}
    nine = {f"backbone.resnet.{key}": value for key, value in (state_of("resnet50", **SLIM) | bands).items()}
    path.write_bytes(as_pickle(nine))
    with pytest.raises(UserError, match=r"conv1.weight \(64x9x7x7 in the file, 64x3x7x7 in the model\)"):
        build(ModelSpec.parse(f"satlas/{RESNET}", ckp_path=str(path), **SLIM))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("Aerial_SwinB_SI", "swin_v2_b"), ("Sentinel2_SwinT_MI_MS", "swin_v2_t"), (RESNET, "resnet50"),
        ("Sentinel2_Resnet152_SI_MS", "resnet152"),
    ],
)  # fmt: skip
def test_a_name_of_satlas_contains_its_architecture(name: str, architecture: str) -> None:
    spec = ModelSpec.parse(f"satlas/{name}")
    assert spec.title == f"satlas/{name.lower()}"
    assert {key: value.shape for key, value in build_meta(spec).state_dict().items()} == {
        key: value.shape for key, value in state_of(architecture).items()
    }
    assert input_shape(spec) == input_shape(ModelSpec.parse(f"torchvision/{architecture}"))


def test_names_in_an_identity() -> None:
    """Published weights make a model of its own; without them it is torchvision's."""

    def names(**keys: object) -> tuple[str, str | None]:
        return published_as(NetPart(**keys))  # type: ignore[arg-type]

    assert names(backend="satlas", model_name=SWIN) == (f"satlas/{SWIN.lower()}", REPOSITORY)
    assert names(backend="satlas", model_name=SWIN.upper()) == names(backend="satlas", model_name=SWIN)
    assert names(backend="satlas", model_name=SWIN, pretrained=False) == ("torchvision/swin_v2_t", None)
    assert names(backend="retccl", model_name="retccl") == ("retccl/resnet50", "best_ckpt")
    assert names(backend="retccl", model_name="resnet50", pretrained=False) == ("retccl/resnet50", None)


def test_retccl(server, tmp_path: Path) -> None:
    trunk = {key: value for key, value in state_of("resnet50", **SLIM).items() if not key.startswith("fc.")}
    path = tmp_path / "torch" / "hub" / "checkpoints" / "retccl" / "best_ckpt.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(as_pickle(trunk | {"fc.weight": torch.zeros(128, 2048), "fc.bias": torch.zeros(128)}))
    for source in ({"pretrained": True}, {"ckp_path": str(path)}):
        published = build(ModelSpec.parse("retccl/resnet50", **source, **SLIM))  # type: ignore[arg-type]
        assert published.state_dict().keys() == trunk.keys()
        assert all(torch.equal(value, trunk[key]) for key, value in published.state_dict().items())
    assert published.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 2048)
    path.write_bytes(as_pickle({f"module.{key}": value for key, value in trunk.items()}))
    with_classifier = build(ModelSpec.parse("retccl/retccl", ckp_path=str(path), num_classes=4, **SLIM)).state_dict()
    assert with_classifier["fc.weight"].shape == (4, 2048)
    assert torch.equal(with_classifier["conv1.weight"], trunk["conv1.weight"])
    assert not server.asked


def test_weights_that_cannot_be_had_or_read(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs = [ModelSpec.parse(f"satlas/{SWIN}", pretrained=True), ModelSpec.parse("retccl/resnet50", pretrained=True)]
    with pytest.raises(UserError) as error:
        fetch(specs)
    assert "satlas/sentinel2_swint_si_rgb: http://127" in error.value.problem
    file = tmp_path / "torch" / "hub" / "checkpoints" / "retccl" / "best_ckpt.pth"
    assert f"nothing downloads its file by itself; get it there, as {file}" in error.value.problem
    file.parent.mkdir(parents=True)
    file.write_bytes(as_pickle({"conv1.weight": torch.zeros(64, 3, 7, 7)})[:9000])
    with pytest.raises(UserError, match=r"retccl/resnet50 cannot be loaded from .*best_ckpt.pth: .*damaged") as error:
        build(ModelSpec.parse("retccl/resnet50", pretrained=True, **SLIM))
    assert "Remove the file if it is damaged" in (error.value.do or "")


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ("backend: satlas, model_name: Sentinel2_ViT", "no model 'sentinel2_vit' in satlas"),
        ("backend: satlas, model_name: ../swinb", "no model '../swinb' in satlas"),
        (f"backend: satlas, model_name: {SWIN}, weights: V2", "The name of a satlas model is that of its weights"),
        ("backend: retccl, model_name: resnet18", "no model in retccl 'resnet18'"),
        (f"backend: satlas, model_name: {SWIN}, checkpoint_path: x.pth", "controls how a model is built and loaded"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(write, net: str, words: str) -> None:
    text = f"model:\n  Net: {{{net}}}\ntrain_config: {{dataset: digits, epochs: 1}}\n"
    document_path = write("config.yml", text)
    job = load_job(document_path)
    with pytest.raises(UserError) as error, located(load_yaml(document_path)):
        kind_of(job).check(job, lambda _, compute: compute())
    assert words in str(error.value)
    assert "config.yml:2" in str(error.value)
