"""Promise 3: no parameter and no buffer of a frozen part changes. Promise 1: an identity changes nothing."""

from __future__ import annotations

import pytest
import torch
from small_jobs import NARROW_RESNET, frame_of, job_of, stitched, trained

from stitching.training.job_data import TaskData
from stitching.training.run_builder import build_network_of


def _before(data: dict, folder) -> dict[str, torch.Tensor]:
    job = job_of(data, folder)
    return {key: value.clone() for key, value in build_network_of(job, TaskData(job)).state_dict().items()}


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def test_training_moves_nothing_in_frozen_parts(tmp_path):
    data = stitched("layer1", "layer3")
    before = _before(data, tmp_path)
    (run,) = trained(data, tmp_path)
    moved = _moved(before, run.network.state_dict())
    assert any("running_mean" in key for key in before if key.startswith("parts.2."))
    assert {key.split(".")[1] for key in moved} == {"1"}
    assert moved == {key for key in before if key.startswith("parts.1.")}


def test_batch_statistics_are_an_option_that_moves_them_and_nothing_else(tmp_path):
    data = stitched("layer1", "layer3", frozen_norm="batch", adapter_init="published")
    before = _before(data, tmp_path)
    (run,) = trained(data, tmp_path)
    frozen = {key for key in _moved(before, run.network.state_dict()) if not key.startswith("parts.1.")}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert frozen == {key for key in before if key.endswith(statistics) and not key.startswith("parts.1.")}
    metadata = run.folder.read_metadata()
    assert (metadata["frozen_norm"], metadata["adapter_init"]) == ("batch", "published")


def test_a_job_says_how_the_weights_of_its_adapter_start(tmp_path):
    default = _before(stitched("layer1", "layer3"), tmp_path)
    published = _before(stitched("layer1", "layer3", adapter_init="published"), tmp_path)
    assert _moved(default, published) == {"parts.1.net.layers.1.weight"}


def test_dropout_and_stochastic_depth_of_frozen_parts_are_off(tmp_path):
    vit = {
        "backend": "timm", "model_name": "vit_tiny_patch16_224", "pretrained": False, "img_size": 16, "patch_size": 8,
        "embed_dim": 24, "depth": 4, "num_heads": 3, "num_classes": 10, "in_chans": 1, "drop_path_rate": 0.9,
        "proj_drop_rate": 0.9,
    }  # fmt: skip
    data = stitched("layer1", "layer3")
    data["model"]["Assembly"]["parts"] = [{"Net": {**vit, "frozen": True}}, {"ClassifierHead": {}}]
    job = job_of(data, tmp_path)
    network = build_network_of(job, TaskData(job)).train()
    images = torch.randn(4, 1, 16, 16)
    assert torch.equal(network(images), network(images))
    network.parts[0].net.train()
    assert not torch.equal(network(images), network(images))


@pytest.mark.parametrize("cut", ["layer1.0", "layer2", "layer4"])
def test_a_self_stitch_with_an_identity_has_the_base_accuracy_exactly(tmp_path, cut):
    base = stitched("layer1", "layer3", save_checkpoints=True)
    base["model"] = {"Net": NARROW_RESNET}
    (run,) = trained(base, tmp_path / "base")
    trained_net = {**NARROW_RESNET, "ckp_path": str(run.folder.checkpoint)}
    following = {"layer1.0": "layer1.1", "layer2": "layer3", "layer4": "global_pool"}[cut]
    identity = {"SimpleAdapter": {"num_conv": 1, "kernel_size": 3, "nonlinearity": False, "init_identity": True}}
    data = stitched(cut, following, identity, test_only=True)
    for place in (0, 2):
        data["model"]["Assembly"]["parts"][place]["Subnet"] |= {**trained_net, "frozen": True}
    trained(data, tmp_path / "stitched")
    alone = frame_of(tmp_path / "base" / "run-0").iloc[-1]
    together = frame_of(tmp_path / "stitched" / "run-0").iloc[-1]
    assert alone["Overall/Test Accuracy"] > 0.2
    assert together["Overall/Test Accuracy"] == alone["Overall/Test Accuracy"]
    assert together["Overall/Test Loss"] == alone["Overall/Test Loss"]
