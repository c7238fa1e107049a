"""A step leaves its numbers on the device; when they are fetched changes nothing of what a run leaves.

A GPU's steps are fetched fifty at a time. Here the CPU's are.
"""

from __future__ import annotations

import pytest
import torch
from small_jobs import frame_of, same, stitched, trained

from stitching.nets.network import Network
from stitching.runs.stopping import Interrupted, StopRequest
from stitching.training.learner import Learner
from stitching.training.step_recorder import STEPS_BEFORE_FETCH

WILD = {"optimizer": "SGD", "optimizer_args": {"lr": 1e30}}


def _job(**train_config) -> dict:
    """A stitched network of our own SmallNet; an epoch has four steps."""
    net = {"model_name": "smallnet", "num_blocks": 2, "width": 4, "in_chans": 1, "frozen": True}
    adapter = {"SimpleAdapter": {"num_conv": 1, "kernel_size": 1}}
    job = stitched("layer1", "layer2", train_config={"data_preprocessing": {"image_size": 8}, "max_batches": 4, **train_config})  # fmt: skip
    parts = [{"Subnet": {**net, "block_output": "blocks.0"}}, adapter, {"Subnet": {**net, "block_input": "blocks.1"}}]
    job["model"]["Assembly"]["parts"] = parts
    return job


@pytest.fixture
def fetched_late(monkeypatch):
    monkeypatch.setitem(STEPS_BEFORE_FETCH, "cpu", 3)


def test_a_late_fetch_changes_no_number(tmp_path, monkeypatch):
    schedule = {
        "lr_scheduler": "OneCycleLR",
        "lr_scheduler_args": {"cadence": "steps", "max_lr": 0.1, "total_steps": 9},
    }
    plateau = {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler_args": {"cadence": "steps", "patience": 0}}
    jobs = [_job(**schedule), _job(**plateau, max_grad_norm=0.1)]
    trained(jobs, tmp_path / "each")
    monkeypatch.setitem(STEPS_BEFORE_FETCH, "cpu", 3)
    trained(jobs, tmp_path / "late")
    for i in range(2):
        same(tmp_path / "late" / f"run-{i}", tmp_path / "each" / f"run-{i}")


@pytest.mark.parametrize("steps", [1, 3, 50])
def test_whenever_it_is_found_a_divergence_has_its_own_step(tmp_path, monkeypatch, steps):
    monkeypatch.setitem(STEPS_BEFORE_FETCH, "cpu", steps)
    job = _job(**WILD) | {"unfrozen": True}
    wild, other = trained([job, _job()], tmp_path)
    assert wild.failure == "diverged at step 2: the loss is nan"
    metadata = wild.folder.read_metadata()
    assert (metadata["state"], metadata["cause"], metadata["steps"]) == ("failed", "diverged", 1)
    assert not wild.folder.has_checkpoint
    assert other.failure is None


def test_no_checkpoint_has_weights_of_a_diverged_run(tmp_path, fetched_late):
    stop = StopRequest()

    def stops_at_once(done: int, total: int, words: str) -> None:
        stop.asked = done == 4  # each has made two steps, of which the wild one's second is not fetched yet

    wild = _job(**WILD) | {"unfrozen": True}
    with pytest.raises(Interrupted):
        trained([wild, _job()], tmp_path, on_progress=stops_at_once, stop=stop)
    assert not (tmp_path / "run-0" / "checkpoint.pt").exists()
    assert (tmp_path / "run-1" / "checkpoint.pt").exists()
    trained([wild, _job()], tmp_path, resume=True)
    trained(_job(), tmp_path / "undisturbed")
    same(tmp_path / "run-1", tmp_path / "undisturbed" / "run-0")


def test_no_step_waits_for_the_device(tmp_path, monkeypatch, fetched_late):
    waits, step = [], Learner.train_step

    def watched(self, *args):
        with pytest.MonkeyPatch.context() as patched:
            for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
                real = getattr(torch.Tensor, name)
                patched.setattr(
                    torch.Tensor, name, lambda x, *a, real=real, name=name: waits.append(name) or real(x, *a)
                )
            return step(self, *args)

    monkeypatch.setattr(Learner, "train_step", watched)
    trained(_job(optimizer="SGD", epochs=1, max_grad_norm=1.0, loss_fn_args={"weight": [1.0] * 10}), tmp_path)
    assert waits == []
    assert len(frame_of(tmp_path / "run-0")) == 4


def test_a_network_changes_its_mode_between_training_and_tests_only(tmp_path, monkeypatch):
    modes, change = [], Network.train
    monkeypatch.setattr(Network, "train", lambda self, mode=True: modes.append(mode) or change(self, mode))
    trained(_job(), tmp_path)
    assert modes[-4:] == [True, False, True, False]  # two epochs
    assert True not in modes[:-4]
