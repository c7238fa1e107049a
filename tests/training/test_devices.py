"""What a job is computed on."""

from __future__ import annotations

import pytest
import torch
from small_jobs import job_of, stitched

from stitching.config.errors import UserError
from stitching.training.devices import device_of
from stitching.training.distributed import ProcessGroup

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch):
    for name in ("STITCHING_DEVICE", "STITCHING_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_JOB_GPUS"):
        monkeypatch.delenv(name, raising=False)


def _device(folder, **settings) -> str:
    return device_of(job_of(stitched("layer1", "layer2", **settings), folder), ProcessGroup()).type


@pytest.mark.parametrize("variable", ["STITCHING_GPUS", "SLURM_GPUS_ON_NODE"])
def test_a_task_with_a_gpu_does_not_train_on_the_cpu_unless_it_is_told_to(tmp_path, monkeypatch, variable):
    assert _device(tmp_path) == "cpu"
    monkeypatch.setenv(variable, "1")
    with pytest.raises(UserError, match="the job was given 1 GPU, and CUDA cannot be used on ") as told:
        _device(tmp_path)
    assert "`device: cpu`" in (told.value.do or "")
    assert told.value.path == ("device",)
    assert _device(tmp_path, device="cpu") == "cpu"
    monkeypatch.setenv("STITCHING_DEVICE", "cpu")
    assert _device(tmp_path) == "cpu"


def test_a_device_of_the_environment_is_only_for_jobs_that_name_none(tmp_path, monkeypatch):
    monkeypatch.setenv("STITCHING_DEVICE", "meta")
    with pytest.raises(UserError, match="'meta'"):
        _device(tmp_path)
    assert _device(tmp_path, device="cpu") == "cpu"
