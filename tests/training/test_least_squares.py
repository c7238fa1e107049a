"""`init: least_squares`: the adapter is fitted before the first step, once, and whatever else happens around it."""

from __future__ import annotations

import pytest
import torch
from small_jobs import NARROW_RESNET, frame_of, job_of, same, stitched, trained

from stitching.config.errors import UserError
from stitching.runs.folder import RunFolder
from stitching.runs.identity import identity
from stitching.runs.kinds import RunOptions, RunRequest
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.training.session import train

LINEAR = {
    "num_conv": 1, "kernel_size": 1, "leading_norm": False, "trailing_norm": False, "nonlinearity": False,
}  # fmt: skip
NARROW_VIT = {
    "backend": "timm", "model_name": "vit_tiny_patch16_224", "pretrained": False, "num_classes": 10, "in_chans": 1,
    "img_size": 16, "patch_size": 4, "embed_dim": 24, "num_heads": 3, "depth": 2,
}  # fmt: skip
FITTED = {"SimpleAdapter": {**LINEAR, "init": "least_squares"}}
TO_LAYER3 = {"SimpleAdapter": {**LINEAR, "init": "least_squares", "out_channels": 8, "in_format": ["img", [8, 2, 2]]}}


def fitted(front: str = "layer1", back: str = "layer2", adapter: dict = FITTED, **settings) -> dict:
    return stitched(front, back, adapter, checkpoint_initial_model=True, **settings)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict:
    """A job's keys that start every subnet from a ResNet that has learned something, and what it got right."""
    whole = {"model": {"Net": dict(NARROW_RESNET)}, "save_checkpoints": True}
    whole["train_config"] = {**stitched("layer1", "layer2")["train_config"], "epochs": 6}
    (run,) = trained(whole, tmp_path_factory.mktemp("base"))
    return {"ckp_path": str(run.folder.checkpoint), "accuracy": run.final["Overall/Test Accuracy"]}


def from_checkpoint(job: dict, path: str) -> dict:
    for part in job["model"]["Assembly"]["parts"]:
        if "Subnet" in part:
            part["Subnet"] = {key: value for key, value in part["Subnet"].items() if key != "pretrained"}
            part["Subnet"]["ckp_path"] = path
    return job


def initial(run) -> float:
    return frame_of(run.folder.path)["Overall/Test Accuracy"][0]


def test_a_network_that_is_put_together_again_has_the_accuracy_it_had(tmp_path, base):
    job = from_checkpoint(fitted(train_config={"max_steps": 1}), base["ckp_path"])
    (run,) = trained(job, tmp_path / "stitched")
    assert base["accuracy"] > 0.4
    assert initial(run) == pytest.approx(base["accuracy"], abs=1e-9)
    assert "the adapter was fitted by least squares, to" in (run.folder.path / "log.txt").read_text()


def test_training_goes_on_from_the_fit(tmp_path, base):
    jobs = [
        from_checkpoint(fitted("layer1", "layer3", adapter, train_config={"max_steps": 1}), base["ckp_path"])
        for adapter in (
            TO_LAYER3, {"SimpleAdapter": {key: v for key, v in TO_LAYER3["SimpleAdapter"].items() if key != "init"}}
        )
    ]  # fmt: skip
    with_fit, without = trained(jobs, tmp_path / "pack")
    assert initial(with_fit) > initial(without) + 0.1
    assert identity(with_fit.job) != identity(without.job)


def test_a_pack_leaves_what_each_run_leaves_alone(tmp_path):
    jobs = [
        fitted(),
        fitted("layer2", "layer3"),
        fitted("layer1", "layer3", TO_LAYER3),
        stitched("layer2", "layer3"),
        fitted(frozen_norm="batch"),
    ]
    runs = trained(jobs, tmp_path / "pack")
    assert [run.failure for run in runs] == [None] * len(jobs)
    for i, job in enumerate(jobs):
        trained(job, tmp_path / f"alone-{i}")
        same(tmp_path / "pack" / f"run-{i}", tmp_path / f"alone-{i}" / "run-0")


def to_vit(**adapter) -> dict:
    """From a map of 8 channels to a ViT with a class token, in front of its second block."""
    job = fitted("layer1", "layer2", {"SimpleAdapter": {**FITTED["SimpleAdapter"], "in_format": ["img", [8, 4, 4]], "out_channels": 24, **adapter}})  # fmt: skip
    job["model"]["Assembly"]["parts"][-1] = {"Subnet": {**NARROW_VIT, "block_input": "blocks.1", "frozen": True}}
    return job


def test_a_class_token_is_fitted_and_trained_and_a_pack_leaves_the_same(tmp_path):
    jobs = [to_vit(), to_vit(prefix_tokens=0), fitted("layer2", "layer3")]
    made, zero, _ = trained(jobs, tmp_path / "pack")
    assert made.network.pieces[1].net.prefix.weight.any()
    log = (made.folder.path / "log.txt").read_text()
    assert "positions of images, its prefix tokens to 500 images" in log
    assert made.cost.trainable == zero.cost.trainable + (4 * 8 + 1) * 24
    assert identity(made.job) != identity(zero.job)
    for i, job in enumerate(jobs[:2]):
        trained(job, tmp_path / f"alone-{i}")
        same(tmp_path / "pack" / f"run-{i}", tmp_path / f"alone-{i}" / "run-0")
    assert not frame_of(made.folder.path)["Overall/Test Loss"].equals(frame_of(zero.folder.path)["Overall/Test Loss"])


def test_augmentation_changes_the_training_and_not_the_fit(tmp_path):
    shifted = {"image_size": 16, "data_augmentation": "default", "train_crop": "pad"}
    runs = [
        trained(fitted(train_config={"epochs": 1, **more}), tmp_path / str(i))[0]
        for i, more in enumerate([{}, {"data_preprocessing": shifted}])
    ]
    plain, augmented = (frame_of(run.folder.path) for run in runs)
    assert plain["Overall/Test Loss"][0] == augmented["Overall/Test Loss"][0]
    assert (plain["Loss"][1:] != augmented["Loss"][1:]).all()


@pytest.mark.parametrize("job_data", [fitted(), to_vit()], ids=["to a map", "to a class token"])
def test_a_run_that_goes_on_is_not_fitted_again(tmp_path, monkeypatch, job_data):
    trained(job_data, tmp_path / "whole")
    stop = StopRequest()

    def stopping(done: int, total: int, words: str) -> None:
        stop.asked = done == 3

    job = job_of(job_data, tmp_path)
    setup = RunRequest(job, RunFolder(tmp_path / "stopped"))
    with pytest.raises(Interrupted):
        train([setup], RunOptions(on_progress=stopping, stop=stop))
    monkeypatch.setattr("stitching.training.session.fit_adapters", lambda *_: pytest.fail("fitted again"))
    train([setup], RunOptions(resume=True))
    same(tmp_path / "stopped", tmp_path / "whole" / "run-0")


def test_loaded_weights_of_the_adapter_are_kept(tmp_path):
    (first,) = trained(fitted(save_checkpoints=True), tmp_path / "first")
    again = fitted(load_from=str(first.folder.checkpoint), test_only=True)
    (run,) = trained(again, tmp_path / "again")
    assert initial(run) == first.final["Overall/Test Accuracy"]
    assert "load_from has its weights" in (run.folder.path / "log.txt").read_text()


def test_an_adapter_between_loaded_weights_is_fitted_to_them(tmp_path, base):
    job = fitted(train_config={"max_steps": 1}, load_from=base["ckp_path"], strict_load=False)
    (run,) = trained(job, tmp_path / "loaded")
    assert run.failure is None
    assert run.network.pieces[1].net.layers[0].weight.isfinite().all()


def test_wrong_jobs_are_told_before_training(tmp_path):
    with pytest.raises(UserError, match="part 0 is not frozen") as error:
        trained(fitted(unfrozen=True), tmp_path)
    assert error.value.path == ("model", "Assembly", "parts", 1, "SimpleAdapter", "init")
    assert not (tmp_path / "run-0").exists()


def test_what_is_not_finite_is_told(tmp_path, base):
    state = torch.load(base["ckp_path"], weights_only=True)
    for value in state["model"].values():
        value.fill_(torch.nan if value.is_floating_point() else 0)
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(UserError, match="not finite"):
        trained(from_checkpoint(fitted(), str(tmp_path / "broken.pt")), tmp_path)
