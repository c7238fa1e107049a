"""What a job is computed on, and whether only by algorithms that give the same every time."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stitching.config.errors import UserError, at
from stitching.config.job_config import JobSettings
from stitching.processes import gpus_of_job
from stitching.training.distributed import ProcessGroup

__all__ = ["deterministic", "device_of"]


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within the body only algorithms that give the same every time; one that has no such form raises."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS would refuse
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def device_of(job: JobSettings, world: ProcessGroup) -> torch.device:
    """The device that this process computes on: the job's; else STITCHING_DEVICE's; else a GPU if there is one.

    Raises:
        UserError: it cannot be used, the job names one GPU for several processes, or the process was given GPUs that
            CUDA does not find. It does not train on the CPU then, a hundred times as long, unless it is asked to.
    """
    name, given = job.device or os.environ.get("STITCHING_DEVICE"), gpus_of_job()
    must_have_gpu = name is None and given > 0
    name = name or ("cuda" if must_have_gpu or torch.cuda.is_available() else "cpu")
    with at("device"):
        if world.size > 1 and name.startswith("cuda:"):
            raise UserError(
                f"found {name!r}, and there are {world.size} processes", allowed="cpu, or cuda: a GPU for each"
            )
        try:
            device = torch.device(name)
            if world.size > 1 and device.type == "cuda":
                # Either every process sees the GPUs of all on its machine, or Slurm shows each only its own.
                device = torch.device("cuda", world.local_rank if torch.cuda.device_count() > 1 else 0)
                torch.cuda.set_device(device)
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            words = str(error).splitlines()[0]
            if must_have_gpu:
                raise UserError(
                    f"the job was given {given} GPU{'s' * (given > 1)}, and CUDA cannot be used on {platform.node()}: "
                    f"{words}",
                    do="Have the node looked at, or leave it out. `device: cpu` trains without a GPU.",
                ) from None
            raise UserError(f"cannot use the device {name!r}: {words}", allowed="cpu, cuda, cuda:0, ...") from None
    return device
