"""What a job is computed on, and whether only by algorithms that give the same every time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stitching.config.errors import UserError, at
from stitching.config.job import JobSettings
from stitching.training.distributed import World

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


def device_of(job: JobSettings, everyone: World) -> torch.device:
    """The device that this process computes on: the job's, or a GPU if there is one.

    Raises:
        UserError: it cannot be used, or the job names one GPU for several processes.
    """
    name = job.device or ("cuda" if torch.cuda.is_available() else "cpu")
    with at("device"):
        if everyone.size > 1 and name.startswith("cuda:"):
            raise UserError(
                f"found {name!r}, and there are {everyone.size} processes", allowed="cpu, or cuda: a GPU for each"
            )
        try:
            device = torch.device(name)
            if everyone.size > 1 and device.type == "cuda":
                # Either every process sees the GPUs of all on its machine, or Slurm shows each only its own.
                device = torch.device("cuda", everyone.local_rank if torch.cuda.device_count() > 1 else 0)
                torch.cuda.set_device(device)
            torch.zeros(1, device=device).item()
        except (RuntimeError, AssertionError) as error:
            words = str(error).splitlines()[0]
            raise UserError(f"cannot use the device {name!r}: {words}", allowed="cpu, cuda, cuda:0, ...") from None
    return device
